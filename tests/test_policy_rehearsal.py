"""`hoop policy test`, `simulate`, `check` and `explain --sql`: trying a policy out before it counts."""

from __future__ import annotations

import json
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hoop_core.cli.policy import app
from hoop_core.model import TableName
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import load_catalog

DEVSTACK = Path(str(resources.files("hoop_core.devstack")))
RULES = """\
rules:
  - {name: read, groups: [agents], reads: ["D.S.*"], then: allow}
  - {name: write, groups: [agents], kinds: [delete], writes: ["D.S.*"], then: allow}
"""
OLD = f"""\
version: 1
catalog: catalog.yaml
{RULES}"""
NEW = """\
version: 1
catalog: catalog.yaml
masks:
  - {columns: ["D.S.T.EMAIL"], mask: "null"}
row_filters:
  - {table: "D.S.U", where: "OWNER = {identity.subject}"}
rules:
  - {name: read, groups: [agents], reads: ["D.S.T", "D.S.U"], then: allow}
  - {name: write, groups: [agents], kinds: [delete], writes: ["D.S.V"], then: allow}
  - {name: ask, kinds: [delete], then: require_approval, approval: {approvers: [owners]}}
"""
CATALOG = """\
tables:
  D.S.T: {ID: NUMBER, EMAIL: VARCHAR}
  D.S.U: {ID: NUMBER, OWNER: VARCHAR}
  D.S.V: {ID: NUMBER}
  D.S.W: {ID: NUMBER}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name, text in (("old.yaml", OLD), ("new.yaml", NEW), ("catalog.yaml", CATALOG)):
        (tmp_path / name).write_text(text)
    return tmp_path


def hoop(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, env={"COLUMNS": "80"})


def told(result: Result) -> Any:
    return json.loads(result.stdout)


def lines(*statements: dict[str, Any]) -> str:
    base = {"groups": ["agents"], "subject": "s", "database": "d", "schema": "s"}
    return "".join(json.dumps(base | s) + "\n" for s in statements)


def simulate(home: Path, history: str | None = None, *options: str) -> Result:
    if history is not None:
        (home / "history.jsonl").write_text(history)
    return hoop(
        "simulate", "--history", home / "history.jsonl", "--against", home / "new.yaml",
        "--policy", home / "old.yaml", *options,
    )  # fmt: skip


# ------------------------------------------------------------------ cases


def test_the_cases_of_the_demo_policy_hold() -> None:
    result = hoop("test", DEVSTACK / "demo_policy.yaml")
    assert result.exit_code == 0, result.stdout
    policy = parse_policy((DEVSTACK / "demo_policy.yaml").read_text(), "p")
    assert len(policy.cases) >= 7
    assert f"{len(policy.cases)} of {len(policy.cases)} cases hold" in result.stdout


def test_the_demo_catalog_names_what_the_demo_world_holds() -> None:
    from hoop_core.devstack import demo_data

    catalog = load_catalog(DEVSTACK / "demo_catalog.yaml")
    for name in demo_data.TABLES:
        columns = catalog.columns(TableName(*name))
        assert columns, name


@pytest.mark.parametrize(
    ("expectation", "fault"),
    [
        ("expect: deny", "expected deny, came allow"),
        ("expect: require_approval", "expected require_approval, came allow"),
        ("expect: allow, reason: MASK_NOT_APPLICABLE", "expected the reason MASK_NOT_APPLICABLE"),
        ("expect: allow, masked: []", "D.S.T.EMAIL is masked, which was not expected"),
        ("expect: allow, masked: [EMAIL, ID]", "ID is not masked"),
        ("expect: allow, masked: [U.EMAIL]", "U.EMAIL is not masked"),
        ("expect: allow, filtered: [T]", "T is not filtered"),
        ("expect: allow, filtered: []", "D.S.U is filtered, which was not expected"),
        ("expect: allow, rewritten_contains: [SPLIT]", "does not contain 'SPLIT'"),
        ("expect: allow, masked: [EMAIL], filtered: [S.U], reason: MASKED", ""),
        ("expect: allow, rewritten_contains: ['NULL::VARCHAR', '= ''me''']", ""),
    ],
)
def test_a_case_says_what_came_instead(home: Path, expectation: str, fault: str) -> None:
    case = (
        "cases:\n  - {name: one, groups: [agents], subject: me, database: d, schema: s,\n"
        f"     sql: SELECT t.email FROM t JOIN u ON u.id = t.id, {expectation}}}\n"
    )
    (home / "new.yaml").write_text(NEW + case)
    result = hoop("test", home / "new.yaml", "--json")
    report = told(result)
    assert result.exit_code == (1 if fault else 0)
    assert report["ok"] is not bool(fault)
    assert fault in "; ".join(report["cases"][0]["faults"])
    assert bool(report["cases"][0]["faults"]) is bool(fault)


def test_a_case_has_a_time_a_run_and_claims_of_its_own(home: Path) -> None:
    text = """\
version: 1
row_filters:
  - {table: "D.S.U", where: "OWNER IN ({claims.teams})"}
rules:
  - {name: read, reads: ["D.S.*"], then: allow, when: "run.dag_id == 'churn' && now < timestamp('2026-01-01T00:00:00Z') && 'x' in identity.claims.teams"}
cases:
  - {name: in time, sql: SELECT id FROM d.s.u, at: 2025-06-01T00:00:00Z, run: {orchestrator: airflow, dag_id: churn}, claims: {teams: [x, y]}, expect: allow, rewritten_contains: ["IN ('x', 'y')"]}
  - {name: too late, sql: SELECT id FROM d.s.u, at: 2026-06-01T00:00:00Z, run: {dag_id: churn}, claims: {teams: [x]}, expect: deny}
  - {name: without a claim, sql: SELECT id FROM d.s.u, at: 2025-06-01T00:00:00Z, run: {dag_id: churn}, expect: deny, reason: CONDITION_ERROR}
"""
    (home / "p.yaml").write_text(text)
    result = hoop("test", home / "p.yaml", "--catalog", home / "catalog.yaml")
    assert result.exit_code == 0, result.stdout


def test_cases_and_catalog_are_no_part_of_the_digest(home: Path) -> None:
    more = NEW + "cases:\n  - {name: n, sql: SELECT 1, expect: deny}\n"
    assert parse_policy(more, "p").digest == parse_policy(NEW, "p").digest
    assert (
        parse_policy(NEW.replace("catalog.yaml", "c"), "p").digest == parse_policy(NEW, "p").digest
    )
    filtered = NEW.replace("identity.subject", "identity.name")
    assert parse_policy(filtered, "p").digest != parse_policy(NEW, "p").digest


def test_a_policy_without_cases_has_not_passed(home: Path) -> None:
    result = hoop("test", home / "new.yaml", "--json")
    assert result.exit_code == 1
    assert "nothing was tested" in told(result)["error"]["message"]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("{name: n, sql: s}", "needs `expect`"),
        ("{name: n, sql: s, expect: alow}", "Did you mean `allow`?"),
        ("{name: n, sql: s, expect: deny, masked: []}", "no meaning where the statement is denied"),
        ("{name: n, sql: s, expect: allow, masked: ['A.*']}", "is not a name"),
        ("{name: n, sql: s, expect: allow, at: soon}", "must be a time"),
        ("{name: n, sql: s, expect: allow, run: {dag: x}}", "Did you mean `dag_id`?"),
        ("{name: n, sql: s, expect: allow, claims: {a: 1}}", "must be a text"),
    ],
)
def test_a_mistake_in_a_case_is_named_with_its_line(home: Path, case: str, says: str) -> None:
    (home / "p.yaml").write_text(f"version: 1\ncases:\n  - {case}\n")
    result = hoop("check", home / "p.yaml", "--json")
    assert result.exit_code == 1
    error = told(result)["error"]
    assert "p.yaml:3: " in error["message"]
    assert says in error["message"]


# ------------------------------------------------------------------ simulate

HISTORY = lines(
    {"id": "a", "sql": "SELECT email FROM t"},
    {"id": "b", "sql": "SELECT id FROM w"},
    {"id": "c", "sql": "DELETE FROM v WHERE id = 1"},
    {"id": "d", "sql": "SELECT id FROM u"},
    {"id": "e", "sql": "SELECT 1"},
    {"id": "f", "sql": "SELECT id FROM w"},
    {"id": "g", "sql": "SELECT id FROM w", "groups": []},
    {"sql": "SELEC nonsense"},
)


def test_what_a_new_policy_changes_is_told_by_kind(home: Path) -> None:
    report = told(simulate(home, HISTORY, "--json"))
    changes = {p: c["changes"] for c in report["changes"] for p in c["places"]}
    assert changes == {
        "a": ["newly_masked"],
        "b": ["newly_denied"],
        "c": ["newly_asked"],
        "d": ["newly_masked"],
        "f": ["newly_denied"],
    }
    assert report["counts"] == {
        "newly_denied": 2, "newly_asked": 1, "newly_allowed": 0, "newly_masked": 2, "newly_unmasked": 0,
        "exception": 0,
    }  # fmt: skip
    assert report["statements"] == 8
    masked = next(c for c in report["changes"] if c["places"] == ["a"])
    assert masked["newly_masked"] == [{"name": "D.S.T.EMAIL", "mask": "null"}]


def test_the_other_way_round_it_is_allowed_and_unmasked(home: Path) -> None:
    (home / "h").write_text(HISTORY)
    report = told(
        hoop("simulate", "--history", home / "h", "--against", home / "old.yaml",
             "--policy", home / "new.yaml", "--json")
    )  # fmt: skip
    assert report["counts"] == {
        "newly_denied": 0, "newly_asked": 0, "newly_allowed": 3, "newly_masked": 0, "newly_unmasked": 2,
        "exception": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "code"),
    [
        ("newly-denied", 1),
        ("newly-unmasked", 0),
        ("newly-unmasked,newly-asked", 1),
        ("newly_denied", 2),
    ],
)
def test_a_ci_job_can_gate_on_a_change(home: Path, gate: str, code: int) -> None:
    assert simulate(home, HISTORY, "--fail-on", gate).exit_code == code


def test_the_changes_fit_an_80_column_terminal(home: Path) -> None:
    long = lines({"sql": "SELECT id, " + ", ".join(f"id AS c{i}" for i in range(200)) + " FROM w"})
    shown = simulate(home, HISTORY + long).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "newly denied (3)" in shown
    assert "D.S.W, which no rule grants" in " ".join(shown.split())


def test_a_role_that_the_new_policy_does_not_map_is_a_denial(home: Path) -> None:
    roles = "roles:\n  - {groups: [agents], vault_role: v, snowflake_role: R}\n"
    (home / "old.yaml").write_text(OLD + roles)
    (home / "new.yaml").write_text(OLD + roles.replace("[agents]", "[others]"))
    report = told(simulate(home, lines({"sql": "SELECT id FROM t", "role": "r"}), "--json"))
    assert report["counts"]["newly_denied"] == 1
    assert "No Snowflake role is mapped" in report["changes"][0]["why"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: not a statement of a history (no JSON"),
        ("[]", "no object"),
        ('{"sql": 1}', "no text `sql`"),
        ('{"sql": "SELECT 1", "group": ["a"]}', "unknown key 'group'"),
        ('{"sql": "SELECT 1", "groups": "a"}', "`groups` is no list"),
        ('{"sql": "SELECT 1", "at": "soon"}', "`at` is no time"),
        ('{"kind": "statement.intent", "data": {}}', "line 2"),
        ('{"kind": "statement.intent", "data": []}', "line 2"),
        ("[" * 100_000, "line 2"),
        ("\udcff", "line 2"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(home: Path, line: str, says: str) -> None:
    text = lines({"sql": "SELECT 1"}) + line + "\n"
    (home / "history.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    result = simulate(home, None, "--json")
    assert result.exit_code == 2
    assert says in told(result)["error"]["message"]


def entry(seq: int, kind: str, **data: Any) -> dict[str, Any]:
    who = {"issuer": "i", "subject": "s", "name": "n", "groups": ["agents"], "method": "oidc"}
    asked = {
        "identity": who,
        "database": "D",
        "schema": "S",
        "snowflake_role": "R",
        "describe_only": False,
    }
    return {"seq": seq, "at": "2026-03-02T10:00:00Z", "kind": kind, "session": "x", "data": asked | data}  # fmt: skip


LOG = [
    entry(0, "policy.loaded", digest="d"),
    entry(1, "statement.intent", sql="SELECT email FROM t", decision={"decision": "allow", "masked": []}),
    entry(2, "statement.intent", sql="SELECT id FROM u", decision={"decision": "allow", "masked": []},
          describe_only=True),
    entry(3, "statement.refused", sql="SELECT id FROM u", reason="NOT_GRANTED"),
    entry(4, "statement.refused", sql="SELECT id FROM u", reason="VAULT_UNAVAILABLE"),
    entry(5, "statement.refused", sql="DELETE FROM v", reason="APPROVAL"),
    entry(6, "statement.intent", sql="SELECT id FROM w", decision={"decision": "allow", "masked": []}),
    entry(7, "statement.outcome", status="succeeded"),
    entry(8, "statement.refused", sql="SELECT id FROM u", sql_characters=300_000, reason="TOO_LONG"),
]  # fmt: skip
ROLE = "roles:\n  - {groups: [agents], vault_role: v, snowflake_role: R}\n"


@pytest.mark.parametrize("bundled", [False, True])
def test_hoops_own_log_is_compared_with_the_decisions_on_record(home: Path, bundled: bool) -> None:
    (home / "new.yaml").write_text(NEW + ROLE)
    text = "".join(json.dumps(e) + "\n" for e in LOG)
    history = home / "log.jsonl"
    if bundled:
        with zipfile.ZipFile(history, "w") as bundle:
            bundle.writestr("log/entries.jsonl", text)
    else:
        history.write_text(text)
    report = told(hoop("simulate", "--history", history, "--against", home / "new.yaml", "--json"))
    assert {c["places"][0]: c["changes"] for c in report["changes"]} == {
        "entry 1": ["newly_masked"],
        "entry 3": ["newly_allowed"],
        "entry 6": ["newly_denied"],
    }
    assert (report["statements"], report["incomparable"]) == (5, 1)


def test_a_history_without_decisions_needs_the_old_policy(home: Path) -> None:
    (home / "h").write_text(HISTORY)
    result = hoop("simulate", "--history", home / "h", "--against", home / "new.yaml", "--json")
    assert result.exit_code == 2
    assert "--policy" in told(result)["error"]["hint"]


# ------------------------------------------------------------------ check


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('masks:\n  - {columns: [A.B.C.D], mask: hash}\n', 3, "equal hashes"),
        ('masks:\n  - {columns: [A.B.*.D], mask: "null"}\n  - {columns: [A.B.C.D], mask: partial}\n', 4,
         "never shows: `null` in line 3"),
        ("rules:\n  - {name: a, reads: [A.B.*], then: allow}\n  - {name: b, reads: [A.B.C], then: allow}\n", 4,
         "grants nothing that `a` in line 3 does not grant"),
        ("rules:\n  - {name: a, reads: [A.B.C], then: allow}\n  - {name: b, reads: [A.B.C], then: allow}\n", 4,
         "says what `a` in line 3 says already"),
        ("rules:\n  - {name: a, reads: [A.B.C], then: allow}\n  - {name: b, reads: [A.*.*], then: deny}\n", 3,
         "never grants anything: `b` in line 4"),
        ("roles:\n  - {groups: [a], vault_role: v, snowflake_role: R}\nrules:\n"
         "  - {name: r, groups: [a, b], reads: [A.B.C], then: allow}\n", 5, "group b, to which no role"),
        ("roles:\n  - {groups: [a], vault_role: v, snowflake_role: R}\nrules:\n"
         "  - {name: r, groups: [b], reads: [A.B.C], then: allow}\n", 3, "no rule grants anything to a"),
        ("row_filters:\n  - {table: A.B.C, where: \"D > '2026-03-02'\"}\n", 3, "DATE_INPUT_FORMAT"),
        ("row_filters:\n  - {table: A.B.C, where: \"D > CURRENT_DATE - 9\"}\n", 3, "TIMEZONE"),
        ("row_filters:\n  - {table: A.B.C, where: \"{identity.subject} = 'x'\"}\n", 3, "asks for no column"),
        ("rules:\n  - {name: a, reads: [A.B.C], then: allow}\n  - {name: d, kinds: [delete], then: deny}\n", 4,
         "`d` never decides anything"),
        ("rules:\n  - {name: a, reads: [A.B.C], then: allow}\n  - {name: d, reads: [A.X.*], then: deny}\n", 4,
         "`d` never decides anything"),
    ],
)  # fmt: skip
def test_what_deserves_a_second_look_is_a_warning(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"version: 1\n{text}")
    result = hoop("check", file, "--json")
    assert result.exit_code == 0
    found = [w for w in told(result)["warnings"] if says in w["message"]]
    assert [w["line"] for w in found] == [line]
    assert hoop("check", file, "--strict").exit_code == 1


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ("statement.kind", "gives a text"),
        ("statement.table_reads + 1", "gives a number"),
        ("statement.kind > 3", "`statement.kind` is a text, and 3 is a number"),
        ("statement.limit_rows > 'x'", "`statement.limit_rows` is a number, and 'x' is a text"),
        ("'x' == statement.table_reads", "and 'x' is a text"),
        ("statement.is_unbounded && statement.kind > 3", "and 3 is a number"),
        ("statement.is_unbounded || statement.limit_rows", "`statement.limit_rows` gives a number"),
        ("false && statement.reads.exists(t, t > 3)", "values of different types"),
        ("true ? statement.is_unbounded : 'x'", "gives a text"),
        ("statement.kind == 'selct'", "Did you mean `select`?"),
        ("statement.kind in ['select', 'delte']", "Did you mean `delete`?"),
        ("statement.is_unbounded and true", "column 24: `and` is not expected"),
        ("statement.is_unbounded and true", "CEL writes `&&` for `and`"),
        ("statement.kind = 'select'", "CEL writes `==` for `=`"),
        ("statement.is_unbounded &&", "it ends too early"),
        ("'pii' in statement.tags", "the policy defines no tags"),
        ("statement.nothing == 1", "unknown name in `when`: `nothing`"),
        ("stmt.kind == 'x'", "unknown name"),
        ("fetch(statement.kind) == 'x'", "Undefined"),
        ("identity.name.contains(1)", "`when` is not"),
    ],
)
def test_a_condition_that_can_never_give_true_or_false_is_a_mistake(
    tmp_path: Path, when: str, says: str
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f'version: 1\nrules:\n  - {{name: r, then: deny, when: "{when}"}}\n')
    result = hoop("check", file, "--json")
    assert result.exit_code == 1
    error = told(result)["error"]
    assert says in f"{error['message']} {error['hint']}"
    assert "{<EOF>" not in error["message"]
    assert "\n" not in error["message"]


def test_a_date_with_its_format_means_the_same_in_every_session(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    where = "D > TO_DATE('2026-03-02', 'YYYY-MM-DD') AND N = '10-4'"
    file.write_text(f'version: 1\nrow_filters:\n  - {{table: A.B.C, where: "{where}"}}\n')
    assert told(hoop("check", file, "--json"))["warnings"] == []


def test_the_demo_policy_needs_no_second_look() -> None:
    result = hoop("check", DEVSTACK / "demo_policy.yaml", "--strict", "--json")
    assert result.exit_code == 0, result.stdout
    assert told(result)["warnings"] == []


def test_a_misspelt_option_of_a_mask_is_named_before_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\nmasks:\n  - {colums: [A.B.C.D]}\n")
    assert "`colums`. Did you mean `columns`?" in hoop("check", file, "--json").stdout


# ------------------------------------------------------------------ explain


def test_a_newcomer_can_explain_a_statement_without_any_file() -> None:
    result = hoop("explain", "--sql", "select email from customers")
    assert result.exit_code == 0
    assert "allow" in result.stdout.splitlines()[0]
    assert "SPLIT_PART" in result.stdout
    assert "email_domain" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_one_statement_is_explained_to_a_program_too(home: Path) -> None:
    result = hoop(
        "explain", "--policy", home / "new.yaml", "--sql", "SELECT id FROM d.s.u", "--groups", "agents",
        "--subject", "it's me", "--json",
    )  # fmt: skip
    assert "= 'it''s me'" in told(result)["rewritten"]


def test_statements_do_not_paint_the_terminal() -> None:
    result = hoop("explain", "--sql", "select '\x1b[2Jgone' from customers")
    assert "\x1b[2J" not in result.stdout


def test_claims_are_given_by_name_and_repeated_for_a_list(home: Path) -> None:
    text = NEW.replace("OWNER = {identity.subject}", "OWNER IN ({claims.teams})")
    (home / "new.yaml").write_text(text)
    base = (
        "explain",
        "--policy",
        home / "new.yaml",
        "--sql",
        "SELECT id FROM d.s.u",
        "--groups",
        "agents",
    )
    two = hoop(*base, "--claim", "teams=a", "--claim", "teams=b", "--json")
    assert "IN ('a', 'b')" in told(two)["rewritten"]
    assert told(hoop(*base, "--json"))["reasons"][0]["code"] == "ROW_FILTER_CLAIM"
    assert hoop(*base, "--claim", "teams").exit_code == 2


def test_standard_input_keeps_its_contract(home: Path) -> None:
    result = hoop(
        "explain", "--policy", home / "new.yaml", "--catalog", home / "catalog.yaml", "--groups", "agents",
        "--database", "d", "--schema", "s", stdin='{"id": 7, "sql": "SELECT email FROM t"}\n\n',
    )  # fmt: skip
    answer = told(result)
    assert list(answer) == [
        "id", "decision", "reasons", "rules", "kind", "reads", "writes", "masked", "rewritten",
        "fingerprint", "elapsed_us", "columns", "filtered", "tags", "detectors",
    ]  # fmt: skip
    assert answer["id"] == 7
    assert hoop("explain", stdin="").exit_code == 2
