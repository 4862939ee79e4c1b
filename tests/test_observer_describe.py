"""What the observer makes of Snowflake's answers about an object."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hoop_core.config import SnowflakeSettings
from hoop_core.credentials.observer import Observer
from hoop_core.errors import SnowflakeError
from hoop_core.model import TableName
from hoop_core.sql.catalog import CatalogObject

NAME = TableName("D", 'S"x', "it's_1")
TEXT = "create or replace view ..."
COLUMN = {"name": "A", "type": "NUMBER(38,0)", "kind": "COLUMN", "policy name": None}


class Scripted(Observer):
    """Answers by the first word or two of the statement."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"tables": [], "views": [], "describe": [COLUMN], "get_ddl": [{"x": TEXT}]}
        self.answers |= answers
        self.asked: list[str] = []

    async def _rows(self, sql: str) -> list[dict[str, str]]:
        self.asked.append(sql)
        kind = next(k for k in ("tables", "views", "get_ddl", "describe") if k.upper() in sql)
        answer = self.answers[kind]
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    def describe_it(self) -> CatalogObject | None:
        return asyncio.run(self.describe(NAME))


def listed(**facts: str) -> list[dict[str, str]]:
    return [{"name": "ITS_1"}, {"name": NAME.name, **facts}]


def test_a_table_has_its_columns_and_its_size() -> None:
    observer = Scripted(tables=listed(rows="12", bytes="4096", is_dynamic="N"))
    found = observer.describe_it()
    assert found == CatalogObject({"A": "NUMBER(38,0)"}, rows=12, bytes=4096)
    assert observer.asked == [
        'SHOW TABLES LIKE \'it\'\'s_1\' IN SCHEMA "D"."S""x"',
        'DESCRIBE TABLE "D"."S""x"."it\'s_1"',
    ]


@pytest.mark.parametrize("size", ["", None, "many"])
def test_an_unknown_size_is_none(size: str | None) -> None:
    found = Scripted(tables=listed(rows=size, bytes=size)).describe_it()  # type: ignore[arg-type]
    assert found is not None and (found.rows, found.bytes) == (None, None)


@pytest.mark.parametrize("flag", ["is_dynamic", "is_external", "is_event"])
def test_tables_that_are_none_are_unknown(flag: str) -> None:
    assert Scripted(tables=listed(**{flag: "Y"})).describe_it() is None


def test_what_is_listed_under_another_name_is_unknown() -> None:
    other = [{"name": "IT'S_1"}, {"name": "it's-1"}]
    assert Scripted(tables=other, views=other).describe_it() is None


def test_a_view_has_its_columns_and_its_text() -> None:
    observer = Scripted(views=listed(is_secure="false", is_materialized="false"))
    assert observer.describe_it() == CatalogObject({"A": "NUMBER(38,0)"}, TEXT)
    assert 'SELECT GET_DDL(\'VIEW\', \'"D"."S""x"."it\'\'s_1"\')' in observer.asked


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"views": listed(is_secure="true")}, "secure view"),
        ({"views": listed(is_materialized="true")}, "materialized view"),
        ({"views": listed(), "get_ddl": SnowflakeError("no", errno=2003)}, "not allowed to see"),
        ({"views": listed(), "get_ddl": SnowflakeError("no", errno=3001)}, "not allowed to see"),
        ({"views": listed(), "get_ddl": [{"x": ""}]}, "does not show"),
        ({"views": listed(), "get_ddl": []}, "does not show"),
        ({"views": listed(), "describe": [{**COLUMN, "policy name": "P"}]}, "masking policies"),
    ],
)
def test_a_view_that_cannot_be_read_through_is_refused_with_the_reason(
    answers: dict[str, Any], why: str
) -> None:
    found = Scripted(**answers).describe_it()
    assert found is not None and why in (found.refused or "") and not found.columns


def test_a_missing_schema_is_an_unknown_object_and_other_errors_are_errors() -> None:
    assert Scripted(tables=SnowflakeError("no", errno=2043)).describe_it() is None
    with pytest.raises(SnowflakeError):
        Scripted(tables=SnowflakeError("no", errno=604)).describe_it()
    with pytest.raises(SnowflakeError):
        Scripted(views=listed(), get_ddl=SnowflakeError("no", errno=606)).describe_it()


class _Slow(Observer):
    """Its session answers one statement at a time, when it is told to."""

    def __init__(self) -> None:
        nothing: Any = None
        super().__init__(
            nothing, SnowflakeSettings(account="A"), nothing, acquire=nothing, release=nothing
        )
        self.asked: list[str] = []
        self.answers = asyncio.Semaphore(0)

    async def _session(self) -> Any:
        return self

    async def rows(self, sql: str) -> list[dict[str, str]]:
        self.asked.append(sql)
        await self.answers.acquire()
        return []


def test_that_a_user_is_gone_is_seen_however_many_descriptions_wait() -> None:
    async def story() -> list[str]:
        slow = _Slow()
        names = [TableName("D", "S", f"T{i}") for i in range(50)]
        waiting = [asyncio.create_task(slow.describe(n)) for n in names]
        for _ in range(5):
            await asyncio.sleep(0)
        gone = asyncio.create_task(slow.users("HOOP_1"))
        for _ in range(5):
            await asyncio.sleep(0)
        for _ in range(2):
            slow.answers.release()
        assert await gone == []
        asked = list(slow.asked)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return asked

    asked = asyncio.run(story())
    assert asked[1] == "SHOW TERSE USERS LIKE 'HOOP_1%'"
    assert len(asked) <= 3
