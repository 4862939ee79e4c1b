"""Which columns of each base table a statement reads anywhere."""

from __future__ import annotations

from hoop_core.sql.catalog import Catalog
from hoop_core.sql.lineage import ColumnsRead, trace
from hoop_core.sql.statement import Analysis


def columns_read(analysis: Analysis, catalog: Catalog) -> ColumnsRead:
    """By table, the columns that the statement reads: in the select list, in predicates, joins, grouping,
    ordering, windows, in the conditions and sources of a change.

    An upper bound: `*` and names that cannot be resolved are all the columns that they could mean. "*"
    stands for any column of a table whose columns the catalog does not know. Never raises.
    """
    return trace(analysis, catalog).columns
