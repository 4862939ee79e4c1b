"""Two databases that differ in protected values only give equal results and equal written tables.

Not modelled by the emulator's engine, and so only checked as text (`masked_static`): AT/BEFORE, `$1`,
HASH_AGG(*), ASOF with MATCH_CONDITION, MATCH_RECOGNIZE, CONNECT BY.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from hoop_core.model import Outcome
from hoop_core.policy.file import load_policy, parse_policy
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import load_catalog
from hoop_core.sql.dialect import SNOWFLAKE
from tests import compositions as grammar
from tests.noninterference import World, ask, told_apart

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
DATA = Path(__file__).parent / "data"
Pair = tuple[World, World]

# --- the adversarial statements ---------------------------------------------------------------------

CASES: list[dict[str, Any]] = [
    {**json.loads(line), "file": name}
    for name in ("adversarial", "adversarial_more")
    for line in (DATA / f"{name}.jsonl").read_text().splitlines()
]
# 55 mixes an aggregate with a plain column, which no engine runs
EXECUTED = [
    c for c in CASES if c["expect"] == "masked" and (c["file"], c["id"]) != ("adversarial", 55)
]
POLICY = load_policy(DATA / "adversarial_policy.yaml")
CATALOG = load_catalog(DATA / "adversarial_catalog.yaml")

_TABLES = (
    "CREATE TABLE customers (id NUMBER, name VARCHAR, email VARCHAR, ssn VARCHAR, balance NUMBER(12,2))",
    "CREATE TABLE orders (id NUMBER, cust_id NUMBER, ts TIMESTAMP_NTZ)",
    "CREATE TABLE out1 (id NUMBER, v VARCHAR)",
    "INSERT INTO orders VALUES (1, 0, '2024-01-01'), (2, 1, '2024-01-02'), (3, 9, NULL)",
)
_RESET = (
    "DROP TABLE IF EXISTS scratch", "DELETE FROM out1", "INSERT INTO out1 VALUES (0, 'x'), (7, 'y')",
)  # fmt: skip
_SECRETS = {
    "one": (("'canary_alice@corp.com'", "'1-1'"), ("'zed@zedcorp.com'", "'222-2'"),
            ("NULL", "'111-3'"), ("'mid@corp.com'", "NULL")),
    # doubled, ordered the other way
    "other": (("'x@y'", "'999'"), ("'x@y'", "'999'"), ("NULL", "'5'"), ("''", "NULL")),
    # NULL in other places: only a mask that shows no NULL pattern may be asked about this one
    "nulls": ((("NULL"), "NULL"), ("'zed'", "NULL"), ("'q'", "'1'"), ("NULL", "'1'")),
}  # fmt: skip


def _customers(secrets: str) -> World:
    names = ("Alice", "Bob", "Carol", "Dave")
    rows = ", ".join(
        f"({i}, '{names[i]}', {email}, {ssn}, {i} * 10)"
        for i, (email, ssn) in enumerate(_SECRETS[secrets])
    )
    filling = (*_TABLES, f"INSERT INTO customers VALUES {rows}")
    return World(filling, _RESET, ("out1", "scratch"))


@pytest.fixture(scope="module")
def customers() -> Iterator[dict[str, World]]:
    worlds = {name: _customers(name) for name in _SECRETS}
    yield worlds
    for world in worlds.values():
        world.close()


@pytest.mark.parametrize("case", EXECUTED, ids=lambda c: f"{c['file']}-{c['id']}")
@pytest.mark.parametrize(("mask", "other"), [("constant", "other"), ("null", "nulls")])
def test_an_adversarial_statement_does_not_tell_the_databases_apart(
    case: dict[str, Any], mask: str, other: str, customers: dict[str, World]
) -> None:
    verdict = ask(case["sql"], POLICY, CATALOG, mask=mask)
    assert verdict.decision.outcome is Outcome.ALLOW, verdict.decision.reasons
    sql = verdict.rewritten or ""
    assert not told_apart((customers["one"], customers[other]), sql)


def test_the_adversarial_statements_run_and_do_tell_the_databases_apart_unguarded(
    customers: dict[str, World],
) -> None:
    pair = (customers["one"], customers["other"])
    telling = [c["id"] for c in EXECUTED if told_apart(pair, c["sql"])]
    assert len(telling) >= 0.75 * len(EXECUTED)
    texts = [ask(c["sql"], POLICY, CATALOG).rewritten or "" for c in EXECUTED]
    failing = [t for t in texts if customers["one"].show(t).error is not None]
    assert len(failing) <= 0.05 * len(EXECUTED), failing


# --- compositions -----------------------------------------------------------------------------------


def _world(secrets: str, hidden: str = "some") -> World:
    filling = grammar.filling(secrets, hidden)
    return World((*grammar.TABLES, *filling), grammar.RESET, grammar.WRITTEN)


@pytest.fixture(scope="module")
def people() -> Iterator[Pair]:
    """They differ in protected values."""
    pair = _world("one"), _world("other")
    yield pair
    for world in pair:
        world.close()


@pytest.fixture(scope="module")
def regions() -> Iterator[Pair]:
    """They differ in protected values, and in number and content of the rows that a filter hides."""
    pair = _world("one"), _world("other", hidden="others")
    yield pair
    for world in pair:
        world.close()


MASKS = parse_policy(grammar.POLICY_YAML, "compositions")
FILTERS = parse_policy(grammar.POLICY_YAML + grammar.ROW_FILTERS_YAML, "compositions")


class Tally:
    """Asks about each composition, and keeps what keeps the test from passing without meaning."""

    def __init__(self, pair: Pair, policy: Policy) -> None:
        self.pair, self.policy = pair, policy
        self.texts: set[str] = set()
        self.count: Counter[str] = Counter()

    def look(self, sql: str) -> None:
        if sql in self.texts:
            return
        verdict = ask(sql, self.policy, grammar.CATALOG)
        if verdict.rewritten is None:
            self.texts.add(sql)
            return
        # where the statement leaves the order open, so do we: hidden rows may change the engine's plan
        ordered = SNOWFLAKE.parse(sql)[0].args.get("order") is not None
        one, other = (w.show(verdict.rewritten, ordered=ordered) for w in self.pair)
        assert one == other, verdict.rewritten
        self.texts.add(sql)
        self.count["allowed"] += 1
        self.count["ran"] += one.error is None
        if len(self.texts) % 4 == 0:  # some of them: enough to know the share
            self.count["unguarded"] += 1
            self.count["telling"] += told_apart(self.pair, sql)

    def conclude(self, at_least: int) -> None:
        assert len(self.texts) >= at_least
        # every composition is ordinary SQL: Hoop refuses none of them
        assert self.count["allowed"] >= 0.98 * at_least
        assert self.count["ran"] >= 0.8 * self.count["allowed"]
        assert self.count["telling"] >= 0.6 * self.count["unguarded"]


_QUICK = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
_LONG = settings(_QUICK, max_examples=2000, derandomize=False, print_blob=True)


def _compose(pair: Pair, policy: Policy, how: settings) -> Tally:
    tally = Tally(pair, policy)
    how(given(grammar.STATEMENTS)(tally.look))()
    return tally


def test_compositions_do_not_tell_protected_values(people: Pair) -> None:
    _compose(people, MASKS, _QUICK).conclude(at_least=85)


def test_compositions_do_not_tell_hidden_rows(regions: Pair) -> None:
    _compose(regions, FILTERS, settings(_QUICK, max_examples=90)).conclude(at_least=50)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_many_compositions_do_not_tell_protected_values(people: Pair) -> None:
    _compose(people, MASKS, _LONG).conclude(at_least=1200)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_many_compositions_do_not_tell_hidden_rows(regions: Pair) -> None:
    _compose(regions, FILTERS, _LONG).conclude(at_least=1200)


def test_a_wrapper_that_shows_a_value_would_be_noticed(people: Pair) -> None:
    """The oracle itself: one mask taken out of the text is seen."""
    sql = "SELECT COUNT(*) FROM people WHERE score > 40"
    text = ask(sql, MASKS, grammar.CATALOG).rewritten or ""
    assert not told_apart(people, text)
    leaking = text.replace('IFF(_g."SCORE" IS NULL, NULL, 0)::NUMBER(12, 2)', '_g."SCORE"')
    assert leaking != text
    assert told_apart(people, leaking)


def test_a_wrapper_that_shows_a_hidden_row_would_be_noticed(regions: Pair) -> None:
    text = ask("SELECT COUNT(*) FROM people", FILTERS, grammar.CATALOG).rewritten or ""
    assert not told_apart(regions, text)
    leaking = re.sub(r' AS _g WHERE .*\) AS "PEOPLE"', ' AS _g) AS "PEOPLE"', text)
    assert leaking != text
    assert told_apart(regions, leaking)
