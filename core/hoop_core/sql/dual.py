"""`FROM DUAL`, which tools that know Oracle write behind a SELECT that reads nothing, taken out of the text.

DUAL stands for one row without columns of interest, as no FROM at all does. Hoop cannot look it up like a table, and a
table of that name would be another one. What is left is the statement that is analysed, logged, approved and run.
"""

from __future__ import annotations

import re

from hoop_core.errors import StatementRefused
from hoop_core.sql.limits import DEFAULT
from hoop_core.sql.loading_words import Sort, Word, words

_FROM_DUAL = re.compile(r"\bFROM\s+DUAL\b", re.IGNORECASE)
_GOES_ON = {"WHERE", "LIMIT", "UNION", "EXCEPT", "MINUS", "INTERSECT"}
_CLAUSES = {"SELECT", "FROM", "DELETE", "UPDATE", "INSERT", "MERGE", "VALUES", "USING"}


def without_dual(sql: str) -> str:
    """The text without each `FROM DUAL` of a SELECT; as it is where that is not plain to see. Never raises."""
    if len(sql) > DEFAULT.max_chars or not _FROM_DUAL.search(sql):
        return sql
    try:
        found = words(sql)
    except StatementRefused:
        return sql
    cuts = _cuts(found)
    if len(cuts) != sum(w.value == "DUAL" for w in found if w.sort in {Sort.NAME, Sort.QUOTED}):
        return sql  # something else is called so: a CTE, a column, a table in a list
    for start, end in reversed(cuts):
        sql = sql[:start] + sql[end:]
    return sql


def _cuts(found: list[Word]) -> list[tuple[int, int]]:
    cuts: list[tuple[int, int]] = []
    clauses = [""]  # the last word of `_CLAUSES`, in each of the brackets that are open
    for i, word in enumerate(found):
        if word.text == "(":
            clauses.append("")
        elif word.text == ")" and len(clauses) > 1:
            clauses.pop()
        elif word.sort is Sort.NAME and word.value in _CLAUSES:
            if word.value == "FROM" and clauses[-1] == "SELECT" and _is_dual(found, i + 1):
                # with the white space before it, so that nothing but the two words is missing
                cuts.append((found[i - 1].end, found[i + 1].end))
            clauses[-1] = word.value
    return cuts


def _is_dual(found: list[Word], at: int) -> bool:
    if at >= len(found) or found[at].sort is not Sort.NAME or found[at].value != "DUAL":
        return False
    after = found[at + 1] if at + 1 < len(found) else None
    return after is None or after.text in {")", ";"} or after.value in _GOES_ON
