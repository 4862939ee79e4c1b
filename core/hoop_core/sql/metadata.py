"""The views of INFORMATION_SCHEMA that queries may read: names, types and comments of a database's objects.

Every driver and tool that looks around in a database reads them. They hold no rows of anybody's table. Which of
their rows a caller sees is for the policy to say (`policy.visibility`); the histories, usage and login views
and the table functions of the same schema are not served.
https://docs.snowflake.com/en/sql-reference/info-schema
"""

from __future__ import annotations

from dataclasses import dataclass

from hoop_core.model import TableName
from hoop_core.sql.catalog import CatalogObject

SCHEMA = "INFORMATION_SCHEMA"


@dataclass(frozen=True, slots=True)
class MetadataView:
    """`schema` and `name` are the columns that say of which object a row tells; `sizes`: it counts rows.

    `withheld` are columns that nobody is shown: the text of a view names tables and values that no rule grants.
    """

    schema: str
    name: str | None
    sizes: bool = False
    withheld: tuple[str, ...] = ()


_VIEWS = {
    "COLUMNS": MetadataView("TABLE_SCHEMA", "TABLE_NAME"),
    "SCHEMATA": MetadataView("SCHEMA_NAME", None),
    "TABLES": MetadataView("TABLE_SCHEMA", "TABLE_NAME", sizes=True),
    "VIEWS": MetadataView("TABLE_SCHEMA", "TABLE_NAME", withheld=("VIEW_DEFINITION",)),
}
NAMES = tuple(_VIEWS)

OBJECT = CatalogObject({})
"""How they stand in a catalog: there, with columns that differ between releases of Snowflake."""


def metadata_view(table: TableName) -> MetadataView | None:
    """None for everything that is not one of the served views."""
    return _VIEWS.get(table.name) if table.schema == SCHEMA else None
