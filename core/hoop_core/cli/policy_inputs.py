"""What the `hoop policy` commands share: where policy and catalog come from, and who asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from hoop_core.errors import ConfigError
from hoop_core.model import Identity, NameContext
from hoop_core.policy.file import load_policy
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog, load_catalog
from hoop_core.sql.names import stored

CatalogOption = Annotated[
    Path | None,
    typer.Option(
        "--catalog",
        help="Tables and columns: tables: {DB.SCHEMA.TABLE: {COL: TYPE}}, and sizes: {DB.SCHEMA.TABLE: "
        "{rows: N, bytes: N}} if rules ask for them. Default: the file that the "
        "policy names by `catalog`.",
    ),
]


@dataclass(frozen=True, slots=True)
class Trial:
    """A policy, and the objects that it is tried on."""

    policy: Policy
    catalog: Catalog


def trial(policy: Path, catalog: Path | None) -> Trial:
    """Raises ConfigError; a missing catalog is a usage error."""
    loaded = load_policy(policy)
    return Trial(loaded, load_catalog(catalog or catalog_of(loaded, policy)))


def catalog_of(policy: Policy, file: Path) -> Path:
    """The catalog that a policy names, relative to its own file."""
    if policy.catalog is None:
        raise ConfigError(
            f"{file} names no catalog, and none was given.",
            "Give --catalog FILE, or write `catalog: FILE` into the policy.",
        )
    return file.parent / policy.catalog


def demo_trial(catalog: Path | None = None) -> Trial:
    """The policy of the demo world, and its tables unless others are given."""
    with as_file(files("hoop_core.devstack")) as folder:
        return trial(folder / "demo_policy.yaml", catalog)


def caller(subject: str, groups: Iterable[str], claims: list[str]) -> Identity:
    """Raises ConfigError when a claim is not NAME=VALUE."""
    given: dict[str, list[str]] = {}
    for claim in claims:
        name, equals, value = claim.partition("=")
        if not (name and equals):
            raise ConfigError(f"`{claim}` is not NAME=VALUE.", "Write --claim region=EU.")
        given.setdefault(name, []).append(value)
    return Identity(
        issuer="cli",
        subject=subject,
        name=subject,
        groups=tuple(sorted({g.strip() for g in groups})),
        method="cli",
        token_digest="",
        claims={n: v[0] if len(v) == 1 else tuple(v) for n, v in given.items()},
    )


def names(database: str | None, schema: str | None) -> NameContext:
    return NameContext(*(None if n is None else stored(n) for n in (database, schema)))
