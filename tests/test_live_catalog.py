"""The catalog of a running gateway: asked once, kept for a while, forgotten when told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.errors import SnowflakeUnavailable
from hoop_core.model import TableName
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.live_catalog import ABSENT_SECONDS, LiveCatalog

T, U = TableName("D", "S", "T"), TableName("D", "S", "U")


class Snowflake:
    """What there is, how often it was asked about, and a gate that holds the answers."""

    def __init__(self) -> None:
        self.there: dict[TableName, CatalogObject] = {T: CatalogObject({"A": "NUMBER"})}
        self.asked: list[TableName] = []
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False
        self.now = 0.0

    async def describe(self, table: TableName) -> CatalogObject | None:
        self.asked.append(table)
        answer = self.there.get(table)
        await self.open.wait()
        if self.broken:
            raise SnowflakeUnavailable("gone")
        return answer

    def catalog(self, **options: float) -> LiveCatalog:
        return LiveCatalog(self.describe, account="ACME", clock=lambda: self.now, **options)  # type: ignore[arg-type]


async def settled() -> None:
    """Everything that can go on without an answer has gone on."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(story: Callable[[Snowflake], Awaitable[None]]) -> None:
    async def told() -> None:
        await story(Snowflake())

    asyncio.run(told())


def test_an_object_is_asked_for_once_until_it_is_stale() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog(fresh_seconds=300)
        for now in (0.0, 299.0, 301.0):
            snowflake.now = now
            found = await catalog.snapshot([T, T])
            assert found.columns(T) == {"A": "NUMBER"}
        assert snowflake.asked == [T, T]

    run(story)


def test_statements_at_the_same_time_share_one_question() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        snowflake.open.clear()
        many = [asyncio.create_task(catalog.snapshot([T, U])) for _ in range(50)]
        await settled()
        snowflake.open.set()
        found = await asyncio.gather(*many)
        assert all(c.columns(T) == {"A": "NUMBER"} and c.get(U) is None for c in found)
        assert sorted(snowflake.asked) == [T, U]

    run(story)


def test_one_who_gives_up_does_not_take_the_answer_from_the_others() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        snowflake.open.clear()
        first = asyncio.create_task(catalog.snapshot([T]))
        await settled()
        second = asyncio.create_task(catalog.snapshot([T]))
        await settled()
        first.cancel()
        await settled()
        snowflake.open.set()
        assert (await second).columns(T) == {"A": "NUMBER"}
        assert snowflake.asked == [T]

    run(story)


def test_a_refused_object_is_not_kept() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        snowflake.there[U] = CatalogObject({}, refused="is a secure view")
        assert (await catalog.snapshot([U])).columns(U) is None
        snowflake.there[U] = CatalogObject({"B": "DATE"})
        assert (await catalog.snapshot([U])).columns(U) == {"B": "DATE"}

    run(story)


@pytest.mark.parametrize("seen_by", ["time", "forget"])
def test_an_unknown_name_is_believed_for_a_moment_and_per_role(seen_by: str) -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        for _ in range(3):
            assert (await catalog.snapshot([U], "R")).get(U) is None
        assert snowflake.asked == [U]
        snowflake.there[U] = CatalogObject({"B": "DATE"})
        assert (await catalog.snapshot([U], "S")).columns(U) == {"B": "DATE"}
        assert (await catalog.snapshot([U], "R")).get(U) is None
        if seen_by == "time":
            snowflake.now += ABSENT_SECONDS
        else:
            catalog.forget([U])
        assert (await catalog.snapshot([U], "R")).columns(U) == {"B": "DATE"}

    run(story)


def test_unknown_names_push_nothing_out_that_is_there() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog(max_objects=2)
        await catalog.snapshot([T])
        await catalog.snapshot([TableName("D", "S", f"N{i}") for i in range(50)], caller="eve")
        await catalog.snapshot([T])
        assert snowflake.asked.count(T) == 1

    run(story)


MANY = [TableName("D", "S", f"N{i}") for i in range(200)]


async def flooded(snowflake: Snowflake, catalog: LiveCatalog) -> list[asyncio.Task[Catalog]]:
    """One caller has asked for a thousand names in five statements, and Snowflake is slow."""
    snowflake.open.clear()
    names = [[TableName("D", "S", f"{t.name}_{i}") for t in MANY] for i in range(5)]
    many = [asyncio.create_task(catalog.snapshot(n, caller="eve")) for n in names]
    await settled()
    return many


def test_one_who_names_hundreds_of_tables_makes_nobody_wait() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        many = await flooded(snowflake, catalog)
        assert len(snowflake.asked) == 2  # of one caller at once
        others = [
            asyncio.create_task(catalog.snapshot([T, U], caller=who)) for who in ("ann", "ben")
        ]
        await settled()
        snowflake.open.set()
        await asyncio.gather(*others)
        assert len(snowflake.asked) < 12
        assert all(c.get(T) is None for c in await asyncio.gather(*many))
        assert len(snowflake.asked) == 1002

    run(story)


def test_a_table_that_the_one_in_front_wants_last_is_not_waited_for_behind_all_the_others() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        snowflake.open.clear()
        many = asyncio.create_task(catalog.snapshot([*MANY, T], caller="eve"))
        await settled()
        mine = asyncio.create_task(catalog.snapshot([T], caller="ann"))
        await settled()
        snowflake.open.set()
        assert (await mine).columns(T) == {"A": "NUMBER"}
        assert len(snowflake.asked) < 8
        assert (await many).columns(T) == {"A": "NUMBER"}
        assert snowflake.asked.count(T) == 1

    run(story)


def test_what_nobody_waits_for_any_more_is_not_looked_up() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        many = await flooded(snowflake, catalog)
        others = asyncio.create_task(catalog.snapshot([MANY[7]], caller="ann"))
        await settled()
        for one in many:
            one.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        snowflake.open.set()
        assert (await others).get(MANY[7]) is None
        await settled()
        assert len(snowflake.asked) == 3
        assert (await catalog.snapshot([T], caller="eve")).columns(T) == {"A": "NUMBER"}

    run(story)


def test_a_statement_that_fails_drops_the_rest_of_its_names() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        snowflake.broken = True
        with pytest.raises(SnowflakeUnavailable):
            await catalog.snapshot(MANY, caller="eve")
        await settled()
        assert len(snowflake.asked) <= 4

    run(story)


def test_a_failure_reaches_everybody_and_is_not_kept() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        snowflake.broken = True
        many = await asyncio.gather(
            *(catalog.snapshot([T]) for _ in range(3)), return_exceptions=True
        )
        assert [type(e) for e in many] == [SnowflakeUnavailable] * 3
        snowflake.broken = False
        assert (await catalog.snapshot([T])).columns(T) == {"A": "NUMBER"}

    run(story)


def test_what_is_forgotten_while_it_is_asked_for_is_not_kept() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        snowflake.open.clear()
        before = asyncio.create_task(catalog.snapshot([T], "R"))
        await settled()
        snowflake.there[T] = CatalogObject({"A": "NUMBER", "B": "DATE"})
        catalog.forget([T])
        after = asyncio.create_task(catalog.snapshot([T], "R"))
        await settled()
        snowflake.open.set()
        assert (await before).columns(T) == {"A": "NUMBER"}
        assert (await after).columns(T) == {"A": "NUMBER", "B": "DATE"}
        assert (await catalog.snapshot([T], "R")).columns(T) == {"A": "NUMBER", "B": "DATE"}

    run(story)


def test_every_role_is_asked_for_itself_and_forgotten_with_the_others() -> None:
    async def story(snowflake: Snowflake) -> None:
        catalog = snowflake.catalog()
        for role in ("READER", "WRITER", "READER"):
            await catalog.snapshot([T], role)
        assert snowflake.asked == [T, T]
        catalog.forget([T])
        for role in ("READER", "WRITER"):
            await catalog.snapshot([T], role)
        assert snowflake.asked == [T] * 4

    run(story)


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 4))
def test_it_never_holds_more_than_its_bound_and_lets_go_of_the_least_used(
    order: list[int], most: int
) -> None:
    async def story(snowflake: Snowflake) -> None:
        tables = [TableName("D", "S", str(i)) for i in range(10)]
        snowflake.there = {t: CatalogObject({"A": "NUMBER"}) for t in tables}
        catalog = snowflake.catalog(max_objects=most)
        recent: list[int] = []
        for i in order:
            asked = len(snowflake.asked)
            await catalog.snapshot([tables[i]])
            assert (len(snowflake.asked) == asked) == (i in recent[-most:])
            recent = [*(r for r in recent if r != i), i]

    run(story)


def test_the_default_is_five_minutes() -> None:
    from hoop_core.config import CatalogSettings

    assert CatalogSettings().fresh_seconds == 300
    with pytest.raises(ValueError, match="greater than 0"):
        CatalogSettings(fresh_seconds=0)
