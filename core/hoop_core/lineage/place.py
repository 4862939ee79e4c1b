"""What events say of the gateway and its surroundings, from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hoop_core.config import Settings
from hoop_core.config.records import LineageParents
from hoop_core.lineage.facets import SCHEMAS_PATH
from hoop_core.lineage.naming import dataset_namespace


@dataclass(frozen=True, slots=True)
class Place:
    """`schemas` is the address below which the schemas of Hoop's own facets are."""

    namespace: str
    origin: str
    schemas: str
    parents: LineageParents
    account: str
    accounts: Mapping[str, str] = field(default_factory=dict)
    """Key of each Snowflake account to its name in the settings; `account` is the default one's name."""

    @classmethod
    def of(cls, settings: Settings, accounts: Mapping[str, str], *, public_url: str) -> Place:
        given = settings.lineage.schemas_url
        return cls(
            namespace=settings.lineage.namespace,
            origin=settings.audit.origin,
            schemas=(given or public_url.rstrip("/") + SCHEMAS_PATH).rstrip("/"),
            parents=settings.lineage.parents,
            account=settings.snowflake.account,
            accounts=accounts,
        )

    def datasets(self, key: str) -> str:
        """The namespace of an account's tables."""
        return dataset_namespace(self.accounts.get(key, key) or self.account)
