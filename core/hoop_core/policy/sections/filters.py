"""`row_filters`: which rows of a table a caller sees."""

from __future__ import annotations

from hoop_core.policy.model import RowFilter
from hoop_core.policy.predicates import PredicateError, parse_predicate
from hoop_core.policy.sections.common import groups, pattern
from hoop_core.yaml_reader import Value

KEYS = ("table", "where", "groups", "except_groups")


def read_filter(value: Value) -> RowFilter:
    f = value.mapping("a row filter", KEYS, ("table", "where"))
    where = f["where"]
    try:
        predicate = parse_predicate(where.text("`where` of a row filter"))
    except PredicateError as e:
        raise where.wrong(f"`where` is not a row filter. {e.message}", e.hint) from None
    return RowFilter(
        table=pattern(f["table"], "`table`", 3),
        where=predicate,
        groups=groups(f, "groups"),
        except_groups=groups(f, "except_groups") or frozenset(),
        line=value.line,
    )
