"""EXPLAIN USING JSON at the stand-in: compiled and authorised, and not run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from snowflake.connector.errors import ProgrammingError

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Behind = Callable[[str], list[tuple[Any, ...]]]
STAGED = "PROD.FEATURES.CHURN_STAGING"


def test_a_delete_is_explained_and_deletes_nothing(stack: DevStack, behind: Behind) -> None:
    before = behind(f"SELECT COUNT(*) FROM {STAGED}")
    told = json.loads(behind(f"explain using json DELETE FROM {STAGED}")[0][0])
    assert set(told["GlobalStats"]) == {"partitionsTotal", "partitionsAssigned", "bytesAssigned"}
    assert behind(f"SELECT COUNT(*) FROM {STAGED}") == before


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (f"EXPLAIN SELECT * FROM {STAGED}", "does not model"),
        ("EXPLAIN USING JSON DROP TABLE PROD.FEATURES.NOTHING", "does not model"),
        (
            "EXPLAIN USING JSON SELECT * FROM PROD.FEATURES.NOTHING",
            "does not exist or not authorized",
        ),
        ("EXPLAIN USING JSON SELEC 1", ""),
    ],
)
def test_what_cannot_be_explained_is_an_error(behind: Behind, sql: str, says: str) -> None:
    with pytest.raises(ProgrammingError, match=says):
        behind(sql)
