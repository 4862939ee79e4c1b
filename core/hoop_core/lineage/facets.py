"""Hoop's own run facets. Their JSON schemas are in `schemas/`, and every gateway serves them.

https://openlineage.io/docs/spec/facets/custom-facets
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, TypeVar

import attr
from openlineage.client.facet_v2 import RunFacet

from hoop_core import __version__
from hoop_core.model import Json

PRODUCER = f"urn:hoop-guard:{__version__}"
VERSION = "1-0-0"
SCHEMAS_PATH = "/lineage/schemas"
"""Below a gateway's address."""
_T = TypeVar("_T", bound=RunFacet)


@attr.define
class HoopIdentityRunFacet(RunFacet):
    """Who asked. `runAsserted` is what the caller said of its run; everything else was proven."""

    issuer: str
    subject: str
    name: str
    method: str
    groups: list[str]
    actors: list[str]
    runAsserted: dict[str, str]  # noqa: N815 - names as in the specification


@attr.define
class HoopDecisionRunFacet(RunFacet):
    """Why it was let through."""

    outcome: str
    rules: list[str]
    reasons: list[str]
    policyDigest: str  # noqa: N815


@attr.define
class HoopApprovalRunFacet(RunFacet):
    """Under which approval it ran. A standing one lets many statements run."""

    approval: str
    standing: bool


@attr.define
class HoopMaskingRunFacet(RunFacet):
    """What was hidden from the caller, and what an exception showed all the same."""

    masked: list[dict[str, str]]
    exposed: list[dict[str, str]]
    filtered: list[str]


@attr.define
class HoopCredentialRunFacet(RunFacet):
    """The Snowflake user that was minted for it."""

    account: str
    snowflakeUser: str  # noqa: N815
    snowflakeRole: str  # noqa: N815


@attr.define
class HoopLogPositionRunFacet(RunFacet):
    """Where the log tells of it: an auditor finds intent and outcome, and can prove both."""

    origin: str
    statementId: str  # noqa: N815
    session: str
    intent: int
    executedSha256: str  # noqa: N815
    outcome: int | None = None


OWN: dict[str, type[RunFacet]] = {
    "hoop_identity": HoopIdentityRunFacet,
    "hoop_decision": HoopDecisionRunFacet,
    "hoop_approval": HoopApprovalRunFacet,
    "hoop_masking": HoopMaskingRunFacet,
    "hoop_credential": HoopCredentialRunFacet,
    "hoop_logPosition": HoopLogPositionRunFacet,
}


def own(kind: type[_T], base: str, **values: Any) -> _T:
    """A facet of ours that says where its schema is; `base` is the address of SCHEMAS_PATH."""
    facet = kind(producer=PRODUCER, **values)
    facet._schemaURL = f"{base}/{VERSION}/{kind.__name__}.json#/$defs/{kind.__name__}"
    return facet


def schema(name: str) -> Json | None:
    """The JSON schema of a facet by its file's name; None where there is none."""
    return _schema(name) if name in {f"{kind.__name__}.json" for kind in OWN.values()} else None


@cache
def _schema(name: str) -> Json:
    text = resources.files("hoop_core.lineage").joinpath("schemas", name).read_text("utf-8")
    loaded: Json = json.loads(text)
    return loaded
