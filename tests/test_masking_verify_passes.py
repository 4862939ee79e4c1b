"""Every pass of the verifier is needed: for each one a text that is wrong in one way, and that only it
refuses. Take the pass away and the text would be executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hoop_core.errors import StatementRefused
from hoop_core.judge import analyse
from hoop_core.masking import verify as module
from hoop_core.masking.masks import TablePlan
from hoop_core.masking.rewrite import rewrite
from hoop_core.model import Statement, TableName
from hoop_core.policy.file import load_policy
from hoop_core.sql.catalog import load_catalog
from hoop_core.sql.statement import Analysis
from tests.noninterference import NAMES, plans_of

DATA = Path(__file__).parent / "data"
POLICY = load_policy(DATA / "adversarial_policy.yaml")
CATALOG = load_catalog(DATA / "adversarial_catalog.yaml")
CUSTOMERS = TableName("DB", "PUBLIC", "CUSTOMERS")
PASSES = {p.__name__: p for p in module.PASSES}


@dataclass(frozen=True)
class Evil:
    """A text that must not be sent, with what the decision was about."""

    text: str
    statement: Statement
    plans: Mapping[TableName, TablePlan]
    original: Analysis | None = None

    def verify(self) -> None:
        module.verify(self.text, statement=self.statement, plans=self.plans, original=self.original)


def good(sql: str) -> Evil:
    analysis = analyse(sql, NAMES)
    plans = plans_of(analysis, POLICY, CATALOG, mask="constant")
    return Evil(rewrite(analysis, plans), analysis.statement, plans)


def changed(sql: str, old: str, new: str) -> Evil:
    right = good(sql)
    text = right.text.replace(old, new)
    assert text != right.text
    return replace(right, text=text)


def comment() -> Evil:
    """Text that the parser does not see, and that another reader may see differently."""
    right = good("SELECT email FROM customers")
    return replace(right, text=right.text + " -- WHERE ssn LIKE '1%'")


def undecided_table() -> Evil:
    """The decision was about other tables than the text names."""
    right = good("SELECT id FROM orders")
    return replace(
        right, statement=replace(right.statement, reads=(TableName("DB", "PUBLIC", "OUT1"),))
    )


def leaking_plan() -> Evil:
    """The subquery is just as planned, but the plan shows the value."""
    analysis = analyse("SELECT email FROM customers", NAMES)
    (plan,) = plans_of(analysis, POLICY, CATALOG, mask="constant").values()
    columns = tuple(
        replace(c, sql="IFF(_g.\"EMAIL\" LIKE 'a%', NULL, '***')::VARCHAR")
        if c.name == "EMAIL"
        else c
        for c in plan.columns
    )
    plans = {CUSTOMERS: replace(plan, columns=columns)}
    return Evil(rewrite(analysis, plans), analysis.statement, plans)


def misplaced_subquery() -> Evil:
    """A masking subquery stands where a column was named, and so means something else."""
    right = good('SELECT "DB"."PUBLIC"."CUSTOMERS".email FROM customers')
    start = right.text.index("(SELECT _g")
    subquery = right.text[start : right.text.index(" AS _g)") + len(" AS _g)")]
    return replace(right, text=right.text.replace('SELECT "CUSTOMERS"', f"SELECT {subquery}", 1))


def other_words() -> Evil:
    return changed("SELECT email FROM customers WHERE id = 1", "id = 1", "id = 2")


def other_structure() -> Evil:
    """The same words, but what was analysed and decided on was put together differently."""
    right = good("SELECT id FROM orders WHERE id = 1 OR id = 2 AND id = 3")
    analysis = analyse(right.statement.sql, NAMES)
    other = analyse("SELECT id FROM orders WHERE (id = 1 OR id = 2) AND id = 3", NAMES)
    return replace(right, original=replace(analysis, kinds=other.kinds))


def unseen_name() -> Evil:
    """A protected table is named where the parser sees no table, so that no other pass asks about it."""
    right = good("SELECT email FROM customers")
    sql = 'SELECT email, "DB"."PUBLIC"."CUSTOMERS" FROM customers'
    text = right.text.replace("SELECT email", 'SELECT email, "DB"."PUBLIC"."CUSTOMERS"')
    return Evil(text, replace(right.statement, sql=sql), right.plans)


EVIL: dict[str, Callable[[], Evil]] = {
    "check_single": comment,
    "check_tables": undecided_table,
    "check_plans": leaking_plan,
    "check_wrappers": misplaced_subquery,
    "check_meaning": other_words,
    "check_structure": other_structure,
    "check_tokens": unseen_name,
}


def test_every_pass_has_a_text_that_it_alone_refuses() -> None:
    assert set(EVIL) == set(PASSES)


@pytest.mark.parametrize("name", EVIL)
def test_a_text_that_one_pass_refuses_would_be_sent_without_that_pass(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = EVIL[name]()
    with pytest.raises(StatementRefused) as caught:
        evil.verify()
    assert caught.value.reason.startswith("VERIFY_")
    monkeypatch.setattr(module, "PASSES", tuple(p for p in module.PASSES if p is not PASSES[name]))
    evil.verify()


@pytest.mark.parametrize("name", EVIL)
def test_the_pass_itself_refuses_its_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASSES", (PASSES[name],))
    with pytest.raises(StatementRefused):
        EVIL[name]().verify()


RAW = (
    ("an unmasked read", ' FROM "DB"."PUBLIC"."CUSTOMERS" WHERE'),
    ("an alias like the inner one", ' FROM "DB"."PUBLIC"."CUSTOMERS" AS _g WHERE'),
    ("an unqualified read", " FROM customers WHERE"),
    ("a quoted, unqualified read", ' FROM "CUSTOMERS" WHERE'),
)


@pytest.mark.parametrize(("what", "source"), RAW, ids=[r[0] for r in RAW])
@pytest.mark.parametrize("without", [None, *PASSES])
def test_no_single_pass_stands_between_a_raw_read_and_the_data(
    what: str, source: str, without: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defence in depth for the worst case: whichever pass is lost, another one refuses."""
    right = good("SELECT email FROM customers WHERE id = 1")
    start, end = right.text.index(" FROM (SELECT _g"), right.text.index(" WHERE id")
    evil = replace(right, text=right.text[:start] + source + right.text[end + len(" WHERE") :])
    kept: tuple[Any, ...] = tuple(p for p in module.PASSES if p.__name__ != without)
    monkeypatch.setattr(module, "PASSES", kept)
    with pytest.raises(StatementRefused):
        evil.verify()
