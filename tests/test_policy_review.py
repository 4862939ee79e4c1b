"""What a newcomer meets in `hoop policy`: only what a statement reads counts, and mistakes are named."""

from __future__ import annotations

import ast
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hoop_core.cli.policy import app
from hoop_core.errors import ConfigError
from hoop_core.model import TableName
from hoop_core.policy.condition_text import operands
from hoop_core.policy.conditions import ConditionError, compile_condition
from hoop_core.policy.file import check_policy, parse_policy
from hoop_core.policy.reasons import CODES, known
from hoop_core.sql.catalog import load_catalog

CORE = Path(str(resources.files("hoop_core")))
POLICY = """\
version: 1
catalog: catalog.yaml
tags:
  pii: ["D.S.T.EMAIL", "D.S.T.SSN"]
masks:
  - {tag: pii, mask: "null"}
detectors:
  - {detect: [card], action: mask}
  - {detect: [email], action: report}
row_filters:
  - {table: "D.S.U", where: "ID > 3"}
rules:
  - {name: read, groups: [agents], reads: ["D.S.*"], then: allow}
"""
CATALOG = """\
tables:
  D.S.T: {ID: NUMBER, EMAIL: VARCHAR, SSN: VARCHAR}
  D.S.U: {ID: NUMBER}
views:
  D.S.V: {columns: {ID: NUMBER, EMAIL: VARCHAR}, definition: "SELECT id, email FROM t"}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    return tmp_path


def hoop(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, env={"COLUMNS": "80"})


def told(result: Result) -> Any:
    return json.loads(result.stdout)


def explained(home: Path, sql: str, *options: str) -> Any:
    base = ("explain", "--policy", home / "policy.yaml", "--groups", "agents", "--database", "d")
    return told(hoop(*base, "--schema", "s", "--sql", sql, "--json", *options))


# ------------------------------------------------------------------ what a statement reads


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        ("SELECT id FROM t", ["ID"]),
        ("SELECT COUNT(*) FROM t", None),
        ("SELECT id FROM t WHERE email = 'x'", ["ID", "EMAIL"]),
        ("SELECT * FROM t", ["ID", "EMAIL", "SSN"]),
    ],
)
def test_explain_tells_what_is_read_beside_all_that_is_masked(
    home: Path, sql: str, read: list[str] | None
) -> None:
    answer = explained(home, sql)
    assert [m["column"] for m in answer["masked"]] == ["EMAIL", "SSN"]
    assert answer["columns"] == ({} if read is None else {"D.S.T": read})
    assert answer["tags"] == (["pii"] if read and "EMAIL" in read else [])
    assert answer["detectors"] == {"mask": ["card"], "block": [], "report": ["email"]}


def test_explain_tells_whose_rows_are_filtered(home: Path) -> None:
    assert explained(home, "SELECT id FROM u")["filtered"] == [
        {"table": "D.S.U", "where": "ID > 3"}
    ]


def test_nobody_looks_at_the_columns_of_what_is_denied(home: Path) -> None:
    answer = explained(home, "DELETE FROM t")
    assert (answer["decision"], answer["columns"], answer["tags"]) == ("deny", None, None)


def test_a_person_is_shown_the_masks_that_the_statement_meets(home: Path) -> None:
    base = ("explain", "--policy", home / "policy.yaml", "--groups", "agents", "--sql")
    shown = hoop(*base, "SELECT email FROM d.s.t").stdout.split("what would run")[0]
    assert "D.S.T.EMAIL" in shown
    assert "SSN" not in shown
    assert "pii" in shown
    assert "masks card" in shown


@pytest.mark.parametrize(
    ("sql", "masked", "holds"),
    [
        ("SELECT id FROM t", "[]", True),
        ("SELECT email FROM t", "[EMAIL]", True),
        ("SELECT email FROM t", "[EMAIL, SSN]", False),
        ("SELECT id FROM t WHERE ssn = 'x'", "[SSN]", True),
        ("SELECT email FROM v", "[EMAIL]", True),
    ],
)
def test_a_case_speaks_of_the_masked_columns_that_are_read(
    home: Path, sql: str, masked: str, holds: bool
) -> None:
    case = f"{{name: n, groups: [agents], database: d, schema: s, sql: {sql}, expect: allow, masked: {masked}}}"
    (home / "policy.yaml").write_text(f"{POLICY}cases:\n  - {case}\n")
    result = hoop("test", home / "policy.yaml")
    assert result.exit_code == (0 if holds else 1), result.stdout


def log_entry(sql: str, exposed: list[dict[str, Any]], masked: list[str] = []) -> str:  # noqa: B006
    who = {"issuer": "i", "subject": "u-17", "name": "Ada", "groups": ["agents"], "method": "oidc"}
    columns = [{"table": "D.S.T", "column": c, "mask": "null"} for c in masked]
    data = {
        "identity": who, "database": "D", "schema": "S", "snowflake_role": "R", "describe_only": False,
        "sql": sql, "decision": {"decision": "allow", "masked": columns, "exposed": exposed},
    }  # fmt: skip
    return json.dumps(
        {"seq": 4, "at": "2026-03-02T10:00:00Z", "kind": "statement.intent", "data": data}
    )


ROLE = "roles:\n  - {groups: [agents], vault_role: v, snowflake_role: R}\n"


def simulated(home: Path, history: str, *options: str) -> Result:
    (home / "policy.yaml").write_text(POLICY + ROLE)
    (home / "history").write_text(history)
    base = ("simulate", "--history", home / "history", "--against", home / "policy.yaml")
    return hoop(*base, *options)


def test_a_masked_column_that_is_not_read_is_no_change(home: Path) -> None:
    result = simulated(home, log_entry("SELECT id FROM t", []), "--json")
    assert told(result)["changes"] == []
    assert told(simulated(home, log_entry("SELECT id FROM t", [], ["ID"]), "--json"))["counts"]["newly_unmasked"] == 1  # fmt: skip


def test_what_a_masking_exception_showed_is_no_new_mask(home: Path) -> None:
    shown = [{"table": "D.S.T", "column": "EMAIL", "mask": "null", "exception": "exc-1"}]
    entry = log_entry("SELECT email FROM t", shown)
    result = simulated(home, entry, "--fail-on", "newly-masked", "--json")
    assert result.exit_code == 0
    (change,) = told(result)["changes"]
    assert change["changes"] == ["exception"]
    assert change["exception"] == [{"name": "D.S.T.EMAIL", "mask": "null"}]
    text = simulated(home, entry).stdout
    assert "masking exception" in text
    assert "Ada (agents)" in text


def test_a_column_shown_to_a_group_is_masked_anew(home: Path) -> None:
    shown = [{"table": "D.S.T", "column": "EMAIL", "mask": "null", "exception": None}]
    entry = log_entry("SELECT email FROM t", shown)
    result = simulated(home, entry, "--fail-on", "newly-masked")
    assert result.exit_code == 1
    assert "failed by --fail-on: newly-masked (1)" in result.stdout


def test_a_gate_over_an_empty_history_has_not_passed(home: Path) -> None:
    result = simulated(home, "\n", "--fail-on", "newly-denied", "--json")
    assert result.exit_code == 1
    assert "holds no statement" in told(result)["error"]["message"]


# ------------------------------------------------------------------ explain from standard input


def test_a_line_may_say_who_asks_from_where(home: Path) -> None:
    lines = [
        {"id": 1, "sql": "SELECT id FROM t", "groups": ["agents"], "database": "d", "schema": "s", "note": 1},
        {"id": 2, "sql": "SELECT id FROM t", "groups": []},
        {"id": 3, "sql": "SELECT id FROM t"},
    ]  # fmt: skip
    result = hoop(
        "explain", "--policy", home / "policy.yaml", "--groups", "agents",
        stdin="".join(json.dumps(x) + "\n" for x in lines),
    )  # fmt: skip
    answers = [json.loads(x) for x in result.stdout.splitlines()]
    assert [a["decision"] for a in answers] == ["allow", "deny", "deny"]
    assert answers[2]["reasons"][0]["code"] == "NO_CURRENT_SCHEMA"


@pytest.mark.parametrize("wrong", ['"groups": "agents"', '"subject": 1', '"schema": []'])
def test_a_caller_of_another_shape_is_refused_with_its_line(home: Path, wrong: str) -> None:
    result = hoop(
        "explain", "--policy", home / "policy.yaml", stdin=f'{{"sql": "SELECT 1", {wrong}}}\n'
    )
    assert result.exit_code == 2
    assert "Line 1" in result.stderr


# ------------------------------------------------------------------ conditions


def test_a_claim_that_the_caller_does_not_have_is_named(home: Path) -> None:
    rule = "  - {name: r, then: deny, when: \"identity.claims.team == 'x'\"}\n"
    (home / "policy.yaml").write_text(POLICY + rule)
    (reason,) = explained(home, "SELECT id FROM t")["reasons"]
    assert reason["code"] == "CONDITION_ERROR"
    assert "has no claim `team`" in reason["message"]
    assert "KeyError" not in reason["message"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("identity.claims['team'] == 'x'", "no claim `team`"),
        ("{'a': true}['b']", "a key that is not there"),
        ("int('') > 3", "int() cannot take its value"),
        ("1 / 0 == 1", "divides by zero"),
        ("[true][3]", "beyond the end of a list"),
        ("1 + 1", "does not give true or false"),
    ],
)
def test_no_exception_of_the_library_is_told(source: str, says: str) -> None:
    with pytest.raises(ConditionError, match=re.escape(says)):
        compile_condition(source).holds({"identity": {"claims": {}}})


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("a && b || !c", ["a", "b", "!c"]),
        ("(a && (b || c))", ["a", "b", "c"]),
        ("a ? b : c ? d : e", ["a", "b", "c", "d", "e"]),
        ("x == 'a && b ? c : d'", ["x == 'a && b ? c : d'"]),
        ("l.exists(t, t && u)", ["l.exists(t, t && u)"]),
        ("(a) == (b)", ["(a) == (b)"]),
        ("{'k': a ? b : c}['k']", ["{'k': a ? b : c}['k']"]),
    ],
)
def test_the_operands_of_a_condition_are_tried_alone(source: str, parts: list[str]) -> None:
    assert [text for text, _ in operands(source)] == parts


@pytest.mark.parametrize(
    "when",
    [
        "statement.kind == 'select' && statement.limit_rows > 3",
        "int(run.map_index) > 3",
        "identity.claims.level > 3",
        "now < timestamp('2026-01-01T00:00:00Z') && now.getHours() > 3",
        "statement.estimated_rows > 1000000 || statement.estimated_bytes > 5.5",
        "statement.reads.exists(t, t == 'A.B.C')",
        "1 + statement.limit_rows == 2 && statement.limit_rows / 2 > 3",
        "'a' == statement.kind + 'b'",
    ],
)
def test_a_condition_that_may_hold_is_no_mistake(when: str) -> None:
    text = f"version: 1\nrules:\n  - {{name: r, then: deny, when: {json.dumps(when)}}}\n"
    assert parse_policy(text, "p").rules


# ------------------------------------------------------------------ check


def test_every_mistake_of_a_file_is_told_in_its_order(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "version: 2\ntags:\n  a: [A.B]\nmaks: 1\nmasks:\n  - {tag: a, mask: 'null'}\n"
        "  - {tag: b, mask: 'null'}\nrules:\n  - {name: r, reads: [A.B], then: allow}\n"
        "  - {name: r, kinds: [delte], then: deny}\ncases:\n  - {name: x, sql: s, expect: deny, reason: NOT_GRANTD}\n"
        "roles: 3\n"
    )
    result = hoop("check", file, "--json")
    assert result.exit_code == 1
    lines = told(result)["error"]["message"].splitlines()
    assert [int(x.split(":")[1]) for x in lines] == [1, 3, 4, 7, 9, 10, 12, 13]
    assert "Did you mean `NOT_GRANTED`?" in lines[6]
    with pytest.raises(ConfigError, match=r"`version` must be 1|unknown key"):
        parse_policy(file.read_text(), "p")


def test_what_is_right_is_read_the_same_by_both_readers() -> None:
    text = (CORE / "devstack/demo_policy.yaml").read_text()
    assert check_policy(text, "p") == parse_policy(text, "p")


def test_the_catalog_that_a_policy_names_must_be_there(home: Path) -> None:
    (home / "catalog.yaml").unlink()
    result = hoop("check", home / "policy.yaml", "--json")
    assert result.exit_code == 1
    assert "catalog.yaml cannot be read" in told(result)["error"]["message"]


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ('"D.S.T.SSN"]', '"D.S.T.SNN"]', 6, "D.S.T.SNN, a column that the catalog does not have. Did you mean `SSN`?"),
        ("ID > 3", "IDD > 3", 11, "D.S.U.IDD, which the catalog does not have. Did you mean `ID`?"),
        ("masks:\n  - {tag: pii, mask: \"null\"}\n", "", None, ""),
        ('"D.S.T.SSN"]', '"D.*.*.SSN", "X.Y.Z.ANY"]', None, ""),
    ],
)  # fmt: skip
def test_a_column_that_the_catalog_does_not_have_is_a_warning(
    home: Path, old: str, new: str, line: int | None, says: str
) -> None:
    assert old in POLICY
    (home / "policy.yaml").write_text(POLICY.replace(old, new))
    warnings = told(hoop("check", home / "policy.yaml", "--json"))["warnings"]
    assert [w["line"] for w in warnings] == ([] if line is None else [line])
    assert says in json.dumps(warnings)


def test_a_tag_without_a_mask_is_checked_too(home: Path) -> None:
    text = POLICY.replace('masks:\n  - {tag: pii, mask: "null"}\n', "").replace("T.SSN", "T.SNN")
    (home / "policy.yaml").write_text(text)
    (warning,) = told(hoop("check", home / "policy.yaml", "--json"))["warnings"]
    assert warning["line"] == 4
    assert "the tag `pii`" in warning["message"]


def test_a_type_that_snowflake_does_not_have_is_a_warning(home: Path) -> None:
    (home / "catalog.yaml").write_text(CATALOG.replace("SSN: VARCHAR", "SSN: VARCHR(9)"))
    (warning,) = told(hoop("check", home / "policy.yaml", "--json"))["warnings"]
    assert warning["line"] is None
    assert "Did you mean `VARCHAR`?" in warning["message"]
    assert "policy.yaml:0" not in hoop("check", home / "policy.yaml").stdout


@pytest.mark.parametrize(("options", "warned"), [("", True), (", domain: customer", False)])
def test_a_hash_with_a_domain_is_meant(tmp_path: Path, options: str, warned: bool) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "version: 1\nhash_function: A.B.F\nmasks:\n"
        f"  - {{columns: [A.B.C.D], mask: hash{options}}}\n"
    )
    assert hoop("check", file, "--strict").exit_code == int(warned)


@pytest.mark.parametrize(
    "rule",
    [
        "{name: d, kinds: [select], then: deny, when: 'false'}",
        "{name: d, reads: ['A.*.X'], then: deny, when: 'false'}",
        "{name: d, kinds: [delete], writes: [W.B.C], reads: ['A.B.*'], then: deny, when: 'false'}",
        "{name: d, kinds: [put, other], then: deny}",
        "{name: d, then: deny, when: 'false'}",
    ],
)
def test_a_rule_that_may_meet_what_is_granted_is_not_dead(tmp_path: Path, rule: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "version: 1\nrules:\n  - {name: a, reads: ['A.B.*'], then: allow}\n"
        f"  - {{name: w, kinds: [delete], writes: ['W.*.*'], then: allow}}\n  - {rule}\n"
    )
    assert "never decides" not in hoop("check", file, "--json").stdout


def test_the_digest_and_the_detectors_are_named(home: Path) -> None:
    shown = hoop("check", home / "policy.yaml").stdout
    assert "2 detectors" in shown
    assert re.search(r"digest [0-9a-f]{64}", shown)


def test_every_code_of_a_decision_is_known_to_cases() -> None:
    files = [*CORE.glob("sql/*.py"), *CORE.glob("policy/**/*.py"), *CORE.glob("masking/*.py"),
             CORE / "judge.py", CORE / "views.py"]  # fmt: skip
    calls = [
        n for f in files for n in ast.walk(ast.parse(f.read_text())) if isinstance(n, ast.Call)
    ]
    given = {
        c.value
        for call in calls
        if getattr(call.func, "id", "") in {"Reason", "refuse", "refusal"} and call.args
        for c in ast.walk(call.args[1 if getattr(call.func, "id", "") == "refusal" else 0])
        if isinstance(c, ast.Constant) and isinstance(c.value, str)
    }
    assert len(given) > 30
    assert {c for c in given if re.fullmatch("[A-Z_]+", c)} - {"VERIFY_"} == set(CODES)
    assert known("VERIFY_PLAN")


# ------------------------------------------------------------------ sizes in the catalog file


def test_rules_about_sizes_can_be_tried_out(home: Path) -> None:
    (home / "catalog.yaml").write_text(CATALOG + "sizes:\n  d.s.t: {rows: 100, bytes: 5000}\n")
    rule = '  - {name: big, then: deny, when: "statement.estimated_rows > 50"}\n'
    (home / "policy.yaml").write_text(POLICY + rule)
    assert explained(home, "SELECT id FROM t")["decision"] == "deny"
    (home / "policy.yaml").write_text(POLICY + rule.replace("50", "100"))
    assert explained(home, "SELECT id FROM t")["decision"] == "allow"
    assert explained(home, "SELECT id FROM u")["decision"] == "deny"  # of unknown size
    known_size = load_catalog(home / "catalog.yaml").get(TableName("D", "S", "T"))
    assert known_size is not None
    assert (known_size.rows, known_size.bytes) == (100, 5000)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ("D.S.TT: {rows: 1}", "Did you mean `D.S.T`?"),
        ("D.S.V: {rows: 1}", "unknown table in `sizes`"),
        ("D.S.T: {row: 1}", "Did you mean `rows`?"),
        ("D.S.T: {rows: -1}", "must be between"),
        ("D.S.T: {rows: many}", "must be a whole number"),
        ("D.S.T: {rows: 1}\n  d.s.t: {rows: 1}", "is given twice"),
    ],
)
def test_a_wrong_size_is_named_with_its_line(home: Path, sizes: str, says: str) -> None:
    (home / "catalog.yaml").write_text(f"{CATALOG}sizes:\n  {sizes}\n")
    with pytest.raises(ConfigError, match=re.escape(says)):
        load_catalog(home / "catalog.yaml")


def test_the_commands_stand_in_the_order_of_use() -> None:
    shown = hoop("--help").stdout
    at = [re.search(rf"\b{c}  ", shown) for c in ("check", "explain", "test", "simulate", "schema")]
    places = [m.start() for m in at if m is not None]
    assert len(places) == 5
    assert places == sorted(places)
    assert "completion" not in shown


def test_the_footer_says_whose_tables_are_used(home: Path) -> None:
    base = ("explain", "--sql", "SELECT 1")
    assert "The demo's policy and tables." in hoop(*base).stdout
    assert "The demo's policy. " in hoop(*base, "--catalog", home / "catalog.yaml").stdout
    assert "demo" not in hoop(*base, "--policy", home / "policy.yaml").stdout


def test_several_changes_at_which_a_job_stops_are_named(home: Path) -> None:
    entry = log_entry("SELECT id FROM u", [])
    result = simulated(home, entry, "--fail-on", "newly-denied,newly-masked")
    assert "failed by --fail-on: newly-masked (1)" in result.stdout
