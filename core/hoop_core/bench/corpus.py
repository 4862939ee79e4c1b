"""Published analytic queries, and a permissive policy that masks one column of one table.

The files (tests/data/tpcds.sql) name their source and carry their licence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hoop_core.errors import ConfigError
from hoop_core.model import NameContext, TableName
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog

NAMES = NameContext("DB", "PUBLIC")
GROUP = "analysts"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Statements, and the columns of their tables (`tables`: upper-case name -> column -> type).

    The catalog holds each table twice: the optimiser's texts write all names quoted in lower case.
    """

    statements: tuple[str, ...] = field(repr=False)
    tables: Mapping[str, Mapping[str, str]] = field(repr=False)
    catalog: Catalog = field(repr=False)


CHECKOUT = Path(__file__).parents[3] / "tests" / "data"
"""Where the published statements are in a source tree; an installed package goes without them."""


def tpcds(folder: Path = CHECKOUT) -> Corpus:
    """The 198 statements of TPC-DS. Raises ConfigError when they are not in `folder`."""
    try:
        text = (folder / "tpcds.sql").read_text(encoding="utf-8")
        tables = yaml.safe_load((folder / "tpcds.yaml").read_text(encoding="utf-8"))["tables"]
    except OSError as e:
        raise ConfigError(
            f"The statements of TPC-DS are not in {folder} ({e.strerror}).",
            "They are in Hoop's source tree (tests/data), not in the package: name that folder by "
            "--corpus, or measure the rest with --only detectors --only overhead.",
        ) from None
    return read_corpus(text, tables)


def read_corpus(text: str, tables: Mapping[str, Mapping[str, str]]) -> Corpus:
    """Statements end with a semicolon at the end of a line; lines that start with `--` are comments.

    `tables` maps DB.PUBLIC.NAME to columns and their types.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    statements = [s.strip() for s in ("\n".join(lines) + "\n").split(";\n") if s.strip()]
    plain = {name.rsplit(".", 1)[-1]: dict(columns) for name, columns in tables.items()}
    known = {TableName("DB", "PUBLIC", name): columns for name, columns in plain.items()}
    known |= {
        TableName("DB", "PUBLIC", name.lower()): {c.lower(): t for c, t in columns.items()}
        for name, columns in plain.items()
    }
    return Corpus(tuple(statements), plain, Catalog.from_mapping(known))


def permissive_policy(table: str | None = None, column: str = "", mask: str = "constant") -> Policy:
    """Reading is granted; one column of one table (in both spellings) is masked, or nothing at all."""
    masked = "masks: []\n"
    if table is not None:
        masked = (
            f"masks:\n  - mask: {mask}\n    columns:\n      - 'DB.PUBLIC.{table}.{column}'\n"
            f"""      - 'DB.PUBLIC."{table.lower()}"."{column.lower()}"'\n"""
        )
    rules = f"rules:\n  - {{name: read, groups: [{GROUP}], reads: ['DB.PUBLIC.*'], then: allow}}\n"
    return parse_policy(f"version: 1\n{masked}{rules}", "bench")
