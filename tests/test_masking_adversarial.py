"""The adversarial statements: what must be masked is masked, what must be denied is denied."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import TokenType
from typer.testing import CliRunner

from hoop_core.cli.policy import app
from hoop_core.judge import judge_text
from hoop_core.masking import rewrite
from hoop_core.model import Identity, NameContext, Outcome, RunContext, Verdict
from hoop_core.policy.file import load_policy
from hoop_core.sql.catalog import load_catalog
from hoop_core.sql.dialect import SNOWFLAKE

DATA = Path(__file__).parent / "data"
CASES: list[dict[str, Any]] = [
    json.loads(line) for line in (DATA / "adversarial.jsonl").read_text().splitlines()
]
POLICY = load_policy(DATA / "adversarial_policy.yaml")
CATALOG = load_catalog(DATA / "adversarial_catalog.yaml")
EXPECTED = {
    "masked": {Outcome.ALLOW},
    "masked_static": {Outcome.ALLOW},
    "deny": {Outcome.DENY},
    "approve": {Outcome.DENY, Outcome.REQUIRE_APPROVAL},
}


def ask(sql: str, mask: str | None = None) -> Verdict:
    return judge_text(
        sql,
        NameContext("DB", "PUBLIC"),
        identity=Identity("https://issuer", "s", "agent", ("agents",), "oidc", "d"),
        policy=POLICY,
        catalog=CATALOG,
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
        mask_override=mask,
    )


def raw_reads(text: str) -> list[str]:
    """Protected columns and tables outside a masking subquery, found on characters and tokens alone.

    Every `FROM "DB"."PUBLIC"."CUSTOMERS" AS _g` is cut out together with its subquery; what is left must
    not name the table as something to read from.
    """
    inner = re.compile(
        r"\(SELECT _g\.\"ID\" AS \"ID\", _g\.\"NAME\" AS \"NAME\", (?P<email>.*?) AS \"EMAIL\", "
        r"(?P<ssn>.*?) AS \"SSN\", _g\.\"BALANCE\" AS \"BALANCE\" "
        r"FROM \"DB\"\.\"PUBLIC\"\.\"CUSTOMERS\"(?: (?:AT|BEFORE) ?\([^()]*\))? AS _g"
        r"(?: (?:TABLE)?SAMPLE(?: [A-Z]+)? ?\(\d+\))?\)"
    )
    masks = {e for m in inner.finditer(text) for e in (m["email"], m["ssn"])}
    bare = [m for m in masks if not re.match(r"(IFF|CAST)\((IFF\()?_g\.\"\w+\" IS NULL, NULL, ", m)]
    tokens = SNOWFLAKE.tokenize(inner.sub("(MASKED)", text))
    words = [t.text.upper() for t in tokens]
    for i, token in enumerate(tokens):
        if token.token_type in {TokenType.STRING, TokenType.DOT} or words[i] != "CUSTOMERS":
            continue
        column = i + 1 < len(tokens) and words[i + 1] == "."
        alias = i > 0 and words[i - 1] in {"AS", ")"}
        if not column and not alias:
            bare.append(" ".join(words[max(0, i - 3) : i + 2]))
    return bare


@pytest.mark.parametrize("case", CASES, ids=lambda c: str(c["id"]))
def test_every_adversarial_statement_has_its_expected_outcome(case: dict[str, Any]) -> None:
    verdict = ask(case["sql"], "constant")
    assert verdict.decision.outcome in EXPECTED[case["expect"]], verdict.decision.reasons
    if case["expect"].startswith("masked"):
        assert verdict.rewritten is not None
        assert raw_reads(verdict.rewritten) == []
        assert verdict.rewritten.count("AS _g)") >= 1
        assert {m.column for m in verdict.decision.masked} == {"EMAIL", "SSN"}
    if case["expect"] == "deny":
        assert verdict.rewritten is None
        assert verdict.decision.reasons


def test_the_scan_for_raw_reads_finds_them() -> None:
    wrapped = ask("SELECT * FROM customers", "constant").rewritten or ""
    assert raw_reads(wrapped) == []
    assert raw_reads("SELECT * FROM customers")
    assert raw_reads(wrapped + ' UNION SELECT * FROM "DB"."PUBLIC"."CUSTOMERS"')
    assert raw_reads(wrapped.replace("IFF(_g.\"SSN\" IS NULL, NULL, '***')::VARCHAR", '_g."SSN"'))


def test_explain_answers_every_line_with_the_keys_of_the_contract() -> None:
    lines = (DATA / "adversarial.jsonl").read_text()
    arguments = ["explain", "--policy", str(DATA / "adversarial_policy.yaml")]
    arguments += ["--catalog", str(DATA / "adversarial_catalog.yaml"), "--groups", "agents,others"]
    arguments += ["--database", "DB", "--schema", "public", "--mask-override", "constant"]
    result = CliRunner().invoke(app, arguments, input=lines)
    assert result.exit_code == 0, result.output
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [a["id"] for a in answers] == [c["id"] for c in CASES]
    for answer, case in zip(answers, CASES, strict=True):
        assert list(answer) == [
            "id", "decision", "reasons", "rules", "kind", "reads", "writes", "masked", "rewritten",
            "fingerprint", "elapsed_us", "columns", "filtered", "tags", "detectors",
        ]  # fmt: skip
        assert answer["decision"] in {str(o) for o in EXPECTED[case["expect"]]}
        assert (answer["rewritten"] is None) == (answer["decision"] == "deny")


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        (["check", str(DATA / "adversarial_policy.yaml")], "", 0),
        (["check", str(DATA / "adversarial_catalog.yaml")], "", 1),
        (["check", str(DATA / "no_such_file.yaml")], "", 2),
        (["explain", "--policy", "x"], "", 2),
        (
            ["explain", "--policy", str(DATA / "adversarial_policy.yaml"), "--catalog", str(DATA / "adversarial_catalog.yaml")],
            "not json\n",
            2,
        ),
        (["schema"], "", 0),
    ],
)  # fmt: skip
def test_exit_codes_of_the_policy_commands(arguments: list[str], stdin: str, code: int) -> None:
    assert CliRunner().invoke(app, arguments, input=stdin).exit_code == code


def test_reading_a_masked_table_too_often_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT id FROM customers" + " UNION ALL SELECT id FROM customers" * 30
    assert ask(sql).decision.outcome is Outcome.ALLOW
    monkeypatch.setattr(rewrite, "MOST_COLUMNS", 100)
    assert [r.code for r in ask(sql).decision.reasons] == ["TOO_MANY_READS"]


# --- compositions -----------------------------------------------------------------------------------

_SOURCES = st.sampled_from(
    [
        "customers",
        "db.public.customers",
        '"CUSTOMERS"',
        "public.customers c",
        "customers AS x (i, n, e, s, b)",
        "customers SAMPLE (10)",
        "orders",
        "(customers)",
        "(customers c JOIN orders o ON o.cust_id = c.id)",
        "customers AT (OFFSET => -60)",
        "customers PIVOT (MAX(email) FOR name IN ('a', 'b'))",
    ]
)


def _wrapped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    forms = [
        "SELECT * FROM ({0}) q",
        "WITH w AS ({0}) SELECT * FROM w",
        "WITH w AS ({0}), v AS (SELECT * FROM w) SELECT COUNT(*) FROM v JOIN w ON TRUE",
        "({0}) UNION ALL ({1})",
        "SELECT (SELECT COUNT(*) FROM ({0}) s) AS n FROM ({1}) t",
        "SELECT * FROM orders WHERE EXISTS ({0})",
        "SELECT * FROM ({0}) a LEFT JOIN ({1}) b ON 1 = 1",
        "SELECT t.n FROM (SELECT COUNT(*) AS n FROM ({0}) u) t -- customers\n",
    ]
    return st.builds(
        lambda f, a, b: f.format(a.split(" --")[0], b.split(" --")[0]),
        st.sampled_from(forms),
        inner,
        inner,
    )


_QUERIES = st.recursive(_SOURCES.map("SELECT * FROM {}".format), _wrapped, max_leaves=6)
_STATEMENTS = st.one_of(
    _QUERIES,
    _QUERIES.map("CREATE TABLE scratch AS {}".format),
    _QUERIES.map("INSERT INTO out1 {}".format),
    _QUERIES.map("DELETE FROM out1 WHERE id > 0 AND EXISTS ({})".format),
    _QUERIES.map(
        "MERGE INTO out1 USING ({}) m ON 1 = 2 WHEN MATCHED THEN UPDATE SET v = 'x'".format
    ),
)


@settings(max_examples=200, deadline=None)
@given(_STATEMENTS)
def test_no_composition_reads_a_protected_table_outside_a_wrapper(sql: str) -> None:
    verdict = ask(sql, "constant")
    assert verdict.decision.outcome is Outcome.ALLOW, (sql, verdict.decision.reasons)
    assert verdict.rewritten is not None
    assert raw_reads(verdict.rewritten) == [], verdict.rewritten
    reads_protected = "CUSTOMERS" in {t.name for t in verdict.statement.reads}  # type: ignore[union-attr]
    assert ("AS _g" in verdict.rewritten) == reads_protected
    assert "--" not in verdict.rewritten
