"""A verdict from the cache is the verdict that the analysis would give now, or there is none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoop_core.analysts.cache import DecisionCache, used_by
from hoop_core.analysts.pool import Analysts
from hoop_core.analysts.question import Judged, Question, judged
from hoop_core.config import AnalysisSettings
from hoop_core.judge import judge_text
from hoop_core.model import Identity, NameContext, Outcome, RunContext, TableName, Verdict
from hoop_core.policy.conditions import compile_condition
from hoop_core.policy.engine import refusal
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.limits import DEFAULT
from tests.analysts_world import CATALOG, CUSTOMERS, HEAVY, JOIN, ORDERS, POLICY, asked, code, runs

BY_RUN = parse_policy(
    """
version: 1
masks:
  - {columns: ["DB.*.CUSTOMERS.EMAIL"], mask: "null", except_groups: [pii]}
rules:
  - {name: staff-read, groups: [staff], reads: ["DB.*.*"], then: allow}
  - {name: night, when: "run.dag_id == 'night'", then: deny}
  - {name: zoe, when: "identity.name == 'zoe' || identity.method == 'saml'", then: deny}
  - name: ask
    when: "statement.schema == 'PRIVATE'"
    then: require_approval
    approval: {approvers: [owners], quorum: 1, pending_for: 1h, valid_for: 1h}
""",
    "test",
)
BY_TIME = parse_policy(
    """
version: 1
rules:
  - {name: r, reads: ["DB.*.*"], then: allow}
  - {name: late, when: "now > timestamp('2030-01-01T00:00:00Z')", then: deny}
""",
    "test",
)
CHANGED = Catalog.from_mapping({CUSTOMERS: {"ID": "NUMBER(38,0)", "EMAIL": "VARCHAR(10)"}})
GROWN = Catalog.of(
    {t: replace(o, rows=10**9, bytes=10**12) for t in (CUSTOMERS, ORDERS) if (o := CATALOG.get(t))}
)


def in_this_process(question: Question, catalog: Catalog) -> Verdict:
    return judge_text(
        question.sql,
        question.names,
        identity=question.identity,
        policy=question.policy,
        catalog=catalog,
        run=question.run,
        now=question.now,
        exceptions=question.exceptions,
        mask_override=question.mask_override,
        limits=question.limits,
    )


def result_of(question: Question, catalog: Catalog) -> tuple[Judged, dict[TableName, Any]]:
    verdict = replace(in_this_process(question, catalog), elapsed_us=0)
    tables = {*verdict.statement.reads, *verdict.statement.writes} if verdict.statement else set()
    objects = {t: catalog.get(t) for t in tables}
    return judged(verdict, objects), objects


def cache(**changes: int) -> DecisionCache:
    return DecisionCache(**{"entries": 100, "most_bytes": 1 << 24} | changes)


IDENTITIES = st.builds(
    Identity,
    issuer=st.sampled_from(["issuer", "other"]),
    subject=st.sampled_from(["ann", "bob"]),
    name=st.sampled_from(["ann", "zoe"]),
    groups=st.sampled_from([("staff",), ("staff", "pii"), ("pii", "staff"), ()]),
    method=st.sampled_from(["oidc", "saml"]),
    token_digest=st.sampled_from(["1", "2"]),
    claims=st.sampled_from([{}, {"region": "EU"}, {"region": ("EU", "US")}]),
)
QUESTIONS = st.builds(
    Question,
    sql=st.sampled_from(
        [JOIN, JOIN + " ", "SELECT email FROM customers", "SELECT * FROM public.customers", "?", ""]
    ),
    names=st.sampled_from(
        [
            NameContext("DB", "PUBLIC"),
            NameContext("DB", "PRIVATE"),
            NameContext(),
            NameContext("DB"),
        ]
    ),
    identity=IDENTITIES,
    policy=st.sampled_from([POLICY, BY_RUN, BY_TIME]),
    run=st.sampled_from(
        [
            RunContext(),
            RunContext("airflow", {"dag_id": "night"}),
            RunContext("airflow", {"dag_id": "x"}),
        ]
    ),
    now=st.sampled_from([datetime(2026, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)]),
    exceptions=st.sampled_from([frozenset(), frozenset({(CUSTOMERS, "EMAIL")})]),
    mask_override=st.sampled_from([None, "constant"]),
    limits=st.sampled_from([DEFAULT, replace(DEFAULT, max_tokens=5)]),
    session=st.sampled_from(["s1", "s2"]),
)
CATALOGS = st.sampled_from([CATALOG, CHANGED, GROWN, Catalog()])


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(QUESTIONS, CATALOGS), min_size=2, max_size=12), data=st.data())
def test_a_hit_is_always_what_the_analysis_would_say_now(
    steps: list[tuple[Question, Catalog]], data: st.DataObject
) -> None:
    kept = cache()
    steps = steps + data.draw(st.permutations(steps))
    hits = 0
    for question, catalog in steps:
        key = kept.key(question)
        found = None if key is None else kept.find(key)
        fresh, objects = result_of(question, catalog)
        if found is not None and found.fits(catalog):
            hits += 1
            assert found.judged == fresh
        elif key is not None:
            kept.keep(key, fresh, objects, 1000)
    cacheable = [s for s in steps if kept.key(s[0]) is not None]
    assert hits or len({id(s[1]) for s in cacheable}) > 1 or not cacheable


BASE = replace(asked(JOIN), policy=BY_RUN)
OTHER: dict[str, Any] = {
    "sql": JOIN + " ",
    "names": NameContext("DB", "OTHER"),
    "policy": POLICY,
    "run": RunContext("airflow", {"dag_id": "other"}),
    "exceptions": frozenset({(CUSTOMERS, "EMAIL")}),
    "mask_override": "null",
    "limits": replace(DEFAULT, max_depth=3),
}
OTHER_IDENTITY: dict[str, Any] = {
    "issuer": "x",
    "subject": "x",
    "name": "x",
    "groups": ("x",),
    "method": "x",
    "claims": {"region": "US"},
    "actors": ("x#bot",),
}


def test_a_change_in_any_part_of_the_question_is_another_key() -> None:
    key = cache().key
    changed = [replace(BASE, **{name: value}) for name, value in OTHER.items()]
    changed += [
        replace(BASE, identity=replace(BASE.identity, **{name: value}))
        for name, value in OTHER_IDENTITY.items()
    ]
    keys = [key(q) for q in (BASE, *changed)]
    assert len(set(keys)) == len(keys) and None not in keys
    # every part of a question and of an identity is either in the key or known not to matter
    assert {f.name for f in fields(Question)} == {*OTHER, "identity", "now", "session"}
    assert {f.name for f in fields(Identity)} == {*OTHER_IDENTITY, "token_digest", "expires_at"}


def test_a_renewed_token_or_another_session_or_moment_is_the_same_key() -> None:
    identity = replace(BASE.identity, token_digest="new", expires_at=datetime.now(UTC))
    later = replace(BASE, identity=identity, session="s9", now=BASE.now + timedelta(days=1))
    assert cache().key(later) == cache().key(BASE)


def test_the_run_counts_only_where_the_policy_looks_at_it() -> None:
    other = RunContext("airflow", {"dag_id": "d", "try_number": "2"})
    plain = replace(BASE, policy=POLICY)
    assert cache().key(replace(plain, run=other)) == cache().key(plain)
    assert cache().key(replace(BASE, run=other)) != cache().key(BASE)


def test_nothing_is_kept_under_a_policy_that_looks_at_the_clock() -> None:
    assert cache().key(replace(BASE, policy=BY_TIME)) is None


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        ("true", set()),
        ("run.dag_id == 'x'", {"run"}),
        ("statement.reads.all(t, t.startsWith(run.dag_id))", {"statement", "run"}),
        ("{'a': now}.a > timestamp('2020-01-01T00:00:00Z')", {"now"}),
        ("'now' == identity.name", {"identity"}),
    ],
)
def test_a_condition_knows_what_it_looks_at(source: str, uses: set[str]) -> None:
    assert compile_condition(source).uses == uses


def test_conditions_are_found_anywhere_in_a_policy() -> None:
    assert used_by(BY_RUN) == {"run", "identity", "statement"} and "now" in used_by(BY_TIME)
    assert used_by({"a": [(BY_TIME.rules[1].when,)]}) == {"now"}


@pytest.mark.parametrize("table", [CUSTOMERS, ORDERS])
@pytest.mark.parametrize(
    "change",
    [
        {"columns": {"ID": "NUMBER(38,0)"}},
        {"definition": "SELECT 1"},
        {"rows": 5},
        {"bytes": 5},
        {"refused": "is a stream"},
        None,
    ],
)
def test_a_change_of_any_object_is_a_miss(table: TableName, change: dict[str, Any] | None) -> None:
    result, objects = result_of(BASE, CATALOG)
    assert set(objects) == {CUSTOMERS, ORDERS}
    kept = cache()
    key = kept.key(BASE)
    assert key is not None
    kept.keep(key, result, objects, 1000)
    found = kept.find(key)
    same = Catalog.of({t: replace(o) for t, o in objects.items()})
    assert found is not None and found.fits(CATALOG) and found.fits(same)
    changed = dict(objects)
    if change is None:
        del changed[table]
    else:
        changed[table] = replace(changed[table], **change)
    assert not found.fits(Catalog.of(changed))


@pytest.mark.parametrize("word", ["ANALYSIS_TIMEOUT", "ANALYSIS_FAILED", "INTERNAL"])
def test_a_denial_that_may_be_gone_next_time_is_not_kept(word: str) -> None:
    kept = cache()
    denied = judged(Verdict(refusal(BASE.policy.digest, word, "text"), None, None), {})
    kept.keep(("k",), denied, {}, 100)
    assert len(kept) == 0
    lasting = judged(Verdict(refusal(BASE.policy.digest, "TOO_DEEP", "text"), None, None), {})
    kept.keep(("k",), lasting, {}, 100)
    assert kept.find(("k",)) is not None


def test_the_least_recently_used_goes_first_and_memory_is_bounded() -> None:
    result, objects = result_of(BASE, CATALOG)
    kept = cache(entries=3)
    for name in "abc":
        kept.keep((name,), result, objects, 1000)
    assert kept.find(("a",)) is not None
    kept.keep(("d",), result, objects, 1000)
    assert kept.find(("b",)) is None and kept.find(("a",)) is not None and len(kept) == 3
    small = cache(most_bytes=200_000)
    for i in range(100):
        small.keep((str(i),), result, objects, 1000)
        assert 0 < small.bytes <= 200_000
    assert 3 < len(small) < 100
    small.keep(("huge",), result, objects, 100_000)
    assert small.find(("huge",)) is None
    for i in range(100):
        small.forget((str(i),))
    assert small.bytes == 0 and len(small) == 0


def test_no_entries_means_no_cache() -> None:
    assert cache(entries=0).key(BASE) is None


def test_the_second_time_is_a_hit_until_the_catalog_changes() -> None:
    catalog = CATALOG
    snapshots: list[tuple[TableName, ...]] = []

    async def snapshot(tables: Iterable[TableName]) -> Catalog:
        snapshots.append(tuple(tables))
        return catalog

    async def go() -> None:
        nonlocal catalog
        analysts = Analysts(AnalysisSettings(workers=1, started=1))
        analysts.start(POLICY)
        counters = analysts.counters
        try:
            first = await analysts.judge(asked(JOIN), snapshot)
            again = await analysts.judge(asked(JOIN), snapshot)
            assert (counters.cache_hits, counters.cache_misses) == (1, 1)
            assert replace(again.verdict, elapsed_us=0) == replace(first.verdict, elapsed_us=0)
            assert again.catalog_digest == first.catalog_digest
            assert snapshots == [(CUSTOMERS, ORDERS)] * 2
            wider = {**CATALOG.get(CUSTOMERS).columns, "PHONE": "VARCHAR"}  # type: ignore[union-attr]
            catalog = CATALOG.but({CUSTOMERS: CatalogObject(wider)})
            changed = await analysts.judge(asked(JOIN), snapshot)
            assert '"PHONE"' in (changed.verdict.rewritten or "")
            assert changed.catalog_digest != first.catalog_digest
            assert len(snapshots) == 3  # what the check has fetched is not fetched again
            assert (counters.cache_hits, counters.cache_misses) == (1, 2)
            denied = [await analysts.judge(asked("SELECT * FROM x.y.z"), snapshot) for _ in "ab"]
            assert [code(d) for d in denied] == ["NOT_GRANTED"] * 2 and counters.cache_hits == 2
        finally:
            await analysts.close()

    runs(go)


def test_a_timeout_is_not_remembered() -> None:
    async def snapshot(_tables: Iterable[TableName]) -> Catalog:
        return CATALOG

    async def go() -> None:
        analysts = Analysts(AnalysisSettings(workers=1, started=1, deadline_seconds=0.002))
        analysts.start(POLICY)
        try:
            assert code(await analysts.judge(asked(HEAVY), snapshot)) == "ANALYSIS_TIMEOUT"
            analysts._deadline = 20.0
            allowed = await analysts.judge(asked(HEAVY), snapshot)
            assert allowed.verdict.decision.outcome is Outcome.ALLOW
        finally:
            await analysts.close()

    runs(go)
