"""How a policy decides, through the one entrance that guard and command line use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hoop_core.errors import PolicyDenied
from hoop_core.judge import judge_text
from hoop_core.model import (
    ApprovalTerms,
    Identity,
    NameContext,
    Outcome,
    RunContext,
    TableName,
    Verdict,
)
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import Catalog

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
CATALOG = Catalog.from_mapping(
    {
        TableName("PROD", "CRM", "CUSTOMERS"): {
            "ID": "NUMBER",
            "EMAIL": "VARCHAR",
            "MRR": "NUMBER",
        },
        TableName("PROD", "CRM", "ORDERS"): {"ID": "NUMBER", "TOTAL": "NUMBER"},
        TableName("PROD", "FEATURES", "CHURN"): {"ID": "NUMBER", "SCORE": "FLOAT"},
        TableName("PROD", "HR", "SALARIES"): {"ID": "NUMBER", "SALARY": "NUMBER"},
        TableName("PROD", "CRM", "BLOBS"): {},
    }
)
READ = '  - {name: read, groups: [agents], reads: ["PROD.CRM.*", "PROD.FEATURES.*"], then: allow}\n'
WRITE = (
    "  - {name: write, groups: [agents], kinds: [insert, update, delete, create_table_as, drop_table], "
    'writes: ["PROD.FEATURES.*"], then: allow}\n'
)
MASK = 'masks:\n  - {columns: ["PROD.CRM.CUSTOMERS.EMAIL"], mask: "null", except_groups: [pii]}\n'


def caller(*groups: str) -> Identity:
    return Identity("https://issuer", "sub-1", "agent", groups, "oidc", "digest")


def ask(
    sql: str,
    rules: str = READ + WRITE,
    *,
    head: str = "",
    groups: tuple[str, ...] = ("agents",),
    run: RunContext | None = None,
    catalog: Catalog = CATALOG,
) -> Verdict:
    return judge_text(
        sql,
        NameContext("PROD", "CRM"),
        identity=caller(*groups),
        policy=parse_policy(f"version: 1\n{head}rules:\n{rules}", "p.yaml"),
        catalog=catalog,
        run=run or RunContext(),
        now=NOW,
    )


def codes(verdict: Verdict) -> list[str]:
    return [r.code for r in verdict.decision.reasons]


def test_a_table_that_no_rule_grants_is_denied_in_words_a_person_understands() -> None:
    verdict = ask("SELECT * FROM prod.hr.salaries")
    assert verdict.decision.outcome is Outcome.DENY
    assert verdict.rewritten is None
    assert [r.message for r in verdict.decision.reasons] == [
        "denied: reads PROD.HR.SALARIES, which no rule grants to groups agents"
    ]


def test_one_ungranted_table_among_granted_ones_denies_the_whole() -> None:
    verdict = ask("SELECT * FROM orders o JOIN prod.hr.salaries s ON s.id = o.id")
    assert verdict.decision.outcome is Outcome.DENY


def test_nothing_matches_is_a_deny() -> None:
    assert ask("SELECT 1", groups=("strangers",)).decision.outcome is Outcome.DENY
    assert ask("SELECT 1", groups=()).decision.outcome is Outcome.DENY


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1", "SHOW TABLES", "DESC TABLE orders", "BEGIN", "USE SCHEMA prod.crm", "COMMIT"],
)
def test_an_allow_rule_without_kinds_covers_reading_and_session_statements(sql: str) -> None:
    assert ask(sql, READ).decision.outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO features.churn VALUES (1, 0.5)",
        "DELETE FROM features.churn WHERE id = 1",
        "CREATE TABLE features.x AS SELECT 1 AS a",
    ],
)
def test_an_allow_rule_without_kinds_never_grants_writing(sql: str) -> None:
    rules = '  - {name: r, groups: [agents], reads: ["*.*.*"], then: allow}\n'
    assert ask(sql, rules).decision.outcome is Outcome.DENY


def test_writing_needs_the_kind_and_the_table_in_one_rule() -> None:
    rules = READ + (
        '  - {name: a, kinds: [insert], writes: ["PROD.CRM.ORDERS"], then: allow}\n'
        '  - {name: b, kinds: [delete], writes: ["PROD.FEATURES.*"], then: allow}\n'
    )
    assert ask("INSERT INTO features.churn VALUES (1, 1)", rules).decision.outcome is Outcome.DENY
    assert ask("INSERT INTO orders VALUES (1, 1)", rules).decision.outcome is Outcome.ALLOW


def test_reads_of_a_write_are_granted_by_the_reading_rule() -> None:
    verdict = ask("INSERT INTO features.churn SELECT id, 1 FROM orders")
    assert verdict.decision.outcome is Outcome.ALLOW
    assert verdict.decision.rules == ("read", "write")


def test_deny_beats_approval_beats_allow() -> None:
    asks = "  - {name: ask, kinds: [delete], then: require_approval, approval: {approvers: [owners]}}\n"
    denies = '  - {name: never, reads: ["PROD.*.*"], writes: ["PROD.*.*"], then: deny}\n'
    delete = "DELETE FROM features.churn WHERE id IN (SELECT id FROM orders)"
    assert ask(delete).decision.outcome is Outcome.ALLOW
    assert ask(delete, READ + WRITE + asks).decision.outcome is Outcome.REQUIRE_APPROVAL
    verdict = ask(delete, READ + WRITE + asks + denies)
    assert verdict.decision.outcome is Outcome.DENY
    assert verdict.decision.rules == ("never",)


def test_an_approval_is_no_grant() -> None:
    asks = "  - {name: ask, then: require_approval, approval: {approvers: [owners]}}\n"
    verdict = ask("DELETE FROM prod.hr.salaries", READ + asks)
    assert verdict.decision.outcome is Outcome.DENY
    assert codes(verdict) == ["NOT_GRANTED"]


def test_several_approvals_are_combined_strictly() -> None:
    asks = (
        "  - {name: one, kinds: [delete], then: require_approval, approval: {approvers: [owners, "
        "security], quorum: 1, pending_for: 2h, valid_for: 4h}}\n"
        "  - {name: two, kinds: [delete], then: require_approval, approval: {approvers: [security, "
        "legal], quorum: 3, pending_for: 24h, valid_for: 30m}}\n"
    )
    verdict = ask("DELETE FROM features.churn", READ + WRITE + asks)
    assert verdict.decision.approval == ApprovalTerms(
        ("security",), 3, timedelta(hours=2), timedelta(minutes=30)
    )


def test_approvals_without_a_common_group_of_approvers_are_a_deny() -> None:
    asks = "".join(
        f"  - {{name: {g}, kinds: [delete], then: require_approval, approval: {{approvers: [{g}]}}}}\n"
        for g in ("owners", "legal")
    )
    verdict = ask("DELETE FROM features.churn", READ + WRITE + asks)
    assert verdict.decision.outcome is Outcome.DENY
    assert codes(verdict) == ["APPROVAL_CONFLICT"]


def windowed(name: str, day: str, start: str, end: str) -> str:
    return (
        f"  - {{name: {name}, kinds: [delete], then: require_approval, approval: {{approvers: [owners], windows: "
        f'[{{days: [{day}], from: "{start}", to: "{end}", timezone: UTC}}]}}}}\n'
    )


@pytest.mark.parametrize(
    ("day", "start", "end", "asked"),
    [
        ("mon", "02:00", "04:00", False),
        ("tue", "01:00", "02:00", False),
        ("mon", "01:30", "04:00", True),
    ],
)
def test_nobody_is_asked_where_the_windows_of_the_rules_are_never_open_at_once(
    day: str, start: str, end: str, asked: bool
) -> None:
    asks = windowed("one", "mon", "01:00", "02:00") + windowed("two", day, start, end)
    verdict = ask("DELETE FROM features.churn", READ + WRITE + asks)
    assert verdict.decision.outcome is (Outcome.REQUIRE_APPROVAL if asked else Outcome.DENY)
    assert ("APPROVAL_WINDOWS" in codes(verdict)) is not asked
    assert verdict.decision.rules[:2] == ("one", "two")


@pytest.mark.parametrize(
    ("where", "outcome"),
    [
        ("", Outcome.REQUIRE_APPROVAL),
        (" WHERE 1 = 1", Outcome.REQUIRE_APPROVAL),
        (" WHERE id = id", Outcome.REQUIRE_APPROVAL),
        (" WHERE id = 3 OR TRUE", Outcome.REQUIRE_APPROVAL),
        (" WHERE id = 3", Outcome.ALLOW),
        (" WHERE id = 3 AND TRUE", Outcome.ALLOW),
    ],
)
def test_unbounded_changes_are_recognised(where: str, outcome: Outcome) -> None:
    asks = (
        '  - {name: ask, kinds: [update, delete], when: "statement.is_unbounded", '
        "then: require_approval, approval: {approvers: [owners], quorum: 2}}\n"
    )
    for sql in ("DELETE FROM features.churn", "UPDATE features.churn SET score = 0"):
        assert ask(sql + where, READ + WRITE + asks).decision.outcome is outcome


def test_conditions_see_statement_identity_run_and_time() -> None:
    rules = (
        "  - name: r\n    reads: ['PROD.CRM.*']\n    then: allow\n    when: >-\n"
        "      statement.kind == 'select' && 'agents' in identity.groups && run.dag_id == 'churn'\n"
        "      && statement.reads == ['PROD.CRM.ORDERS'] && 'SUM' in statement.functions\n"
        "      && now < timestamp('2026-03-03T00:00:00Z') && identity.name == 'agent'\n"
    )
    run = RunContext("airflow", {"dag_id": "churn"})
    sql = "SELECT SUM(total) FROM orders"
    assert ask(sql, rules, run=run).decision.outcome is Outcome.ALLOW
    assert ask(sql, rules).decision.outcome is Outcome.DENY
    assert ask("SELECT total FROM orders", rules, run=run).decision.outcome is Outcome.DENY


@pytest.mark.parametrize("then", ["allow", "deny"])
def test_a_condition_that_cannot_be_evaluated_is_a_deny(then: str) -> None:
    rules = READ + f"  - {{name: broken, when: 'int(run.purpose) > 3', then: {then}}}\n"
    verdict = ask("SELECT 1", rules, run=RunContext("airflow", {"purpose": "not a number"}))
    assert verdict.decision.outcome is Outcome.DENY
    assert codes(verdict) == ["CONDITION_ERROR"]
    assert "broken" in verdict.decision.reasons[0].message


def test_an_unknown_object_is_denied_without_the_words_that_dagster_swallows() -> None:
    verdict = ask("SELECT * FROM no_such_table")
    assert codes(verdict) == ["UNKNOWN_OBJECT"]
    assert "does not exist or not authorized" not in verdict.decision.reasons[0].message


def test_an_ungranted_table_is_denied_alike_whether_it_exists_or_not() -> None:
    known, unknown = ask("SELECT * FROM hr.salaries"), ask("SELECT * FROM hr.nothing")
    assert codes(known) == codes(unknown) == ["NOT_GRANTED"]


def test_create_and_drop_if_exists_need_no_existing_table_but_other_writes_do() -> None:
    assert ask("CREATE TABLE features.new_one AS SELECT 1 AS a").decision.outcome is Outcome.ALLOW
    assert ask("DROP TABLE IF EXISTS features.none").decision.outcome is Outcome.ALLOW
    for sql in ("DROP TABLE features.none", "INSERT INTO features.none VALUES (1)"):
        assert codes(ask(sql)) == ["UNKNOWN_OBJECT"]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM customers WHERE id = 1",
        "UPDATE customers SET mrr = 0",
        "INSERT INTO customers (id) VALUES (1)",
        "CREATE OR REPLACE TABLE customers AS SELECT 1 AS id",
        "DROP TABLE customers",
        "DROP TABLE IF EXISTS customers",
    ],
)
def test_a_masked_table_is_never_the_target_of_a_change(sql: str) -> None:
    rules = READ + (
        "  - {name: w, kinds: [insert, update, delete, create_table_as, drop_table], "
        'writes: ["*.*.*"], then: allow}\n'
    )
    assert codes(ask(sql, rules, head=MASK)) == ["WRITE_TO_PROTECTED"]
    assert codes(ask(sql, rules, head=MASK, catalog=Catalog())) in (
        ["WRITE_TO_PROTECTED"],
        ["UNKNOWN_OBJECT"],
    )


def test_exceptions_unmask_only_the_groups_they_name() -> None:
    rules = READ.replace("[agents]", "[agents, pii]")
    masked = ask("SELECT email FROM customers", rules, head=MASK)
    open_ = ask("SELECT email FROM customers", rules, head=MASK, groups=("agents", "pii"))
    assert [(m.column, m.mask) for m in masked.decision.masked] == [("EMAIL", "null")]
    assert open_.decision.masked == ()
    assert open_.rewritten == 'SELECT email FROM "PROD"."CRM"."CUSTOMERS"'


def test_the_strictest_of_several_masks_wins_and_an_exception_lifts_only_its_own() -> None:
    head = (
        'masks:\n  - {columns: ["PROD.CRM.*.EMAIL"], mask: email_domain}\n'
        '  - {columns: ["PROD.CRM.CUSTOMERS.EMAIL"], mask: "null", except_groups: [pii]}\n'
    )
    sql = "SELECT email FROM customers"
    assert ask(sql, head=head).decision.masked[0].mask == "null"
    assert ask(sql, head=head, groups=("agents", "pii")).decision.masked[0].mask == "email_domain"


def test_a_table_without_known_columns_is_readable_only_while_no_mask_names_it() -> None:
    assert ask("SELECT * FROM blobs").decision.outcome is Outcome.ALLOW
    head = 'masks:\n  - {columns: ["PROD.CRM.*.EMAIL"], mask: "null"}\n'
    assert codes(ask("SELECT * FROM blobs", head=head)) == ["COLUMNS_UNKNOWN"]


def test_a_masked_column_that_is_gone_closes_the_table() -> None:
    renamed = Catalog.from_mapping(
        {TableName("PROD", "CRM", "CUSTOMERS"): {"ID": "NUMBER", "MAIL": "VARCHAR"}}
    )
    assert codes(ask("SELECT id FROM customers", head=MASK, catalog=renamed)) == ["POLICY_DRIFT"]


def test_a_mask_that_does_not_fit_the_type_becomes_null_with_a_note() -> None:
    head = 'masks:\n  - {columns: ["PROD.CRM.CUSTOMERS.MRR"], mask: email_domain}\n'
    verdict = ask("SELECT mrr FROM customers", head=head)
    assert [(m.column, m.mask) for m in verdict.decision.masked] == [("MRR", "null")]
    assert "MASK_NOT_APPLICABLE" in codes(verdict)
    assert 'NULL::NUMBER AS "MRR"' in (verdict.rewritten or "")


def test_a_cte_may_share_a_masked_tables_name_only_where_that_name_means_nothing_else() -> None:
    pattern = "WITH customers AS (SELECT * FROM prod.crm.customers) SELECT email FROM customers"
    assert codes(ask(pattern, head=MASK)) == ["CTE_SHADOWS_PROTECTED"]
    policy = parse_policy(f"version: 1\n{MASK}rules:\n{READ}", "p.yaml")
    elsewhere = judge_text(
        pattern,
        NameContext("PROD", "FEATURES"),
        identity=caller("agents"),
        policy=policy,
        catalog=CATALOG,
        run=RunContext(),
        now=NOW,
    )
    assert elsewhere.decision.outcome is Outcome.ALLOW
    assert (elsewhere.rewritten or "").endswith('AS "CUSTOMERS") SELECT email FROM customers')


def test_an_error_inside_never_leaves_judge_text() -> None:
    class Broken(Catalog):
        def columns(self, table: TableName) -> None:  # type: ignore[override]
            raise RuntimeError("jane@corp.example")

    verdict = ask("SELECT * FROM orders", catalog=Broken())
    assert verdict.decision.outcome is Outcome.DENY
    assert codes(verdict) == ["INTERNAL"]
    assert "jane" not in verdict.decision.reasons[0].message


ROLES = (
    "version: 1\nroles:\n"
    "  - {groups: [ml], vault_role: ml-reader, snowflake_role: ML_READER, warehouse: ml_wh}\n"
    '  - {groups: [pii, dba], vault_role: pii-reader, snowflake_role: "PII_READER"}\n'
)


def test_roles_follow_groups_and_an_ambiguous_choice_is_asked_for() -> None:
    policy = parse_policy(ROLES, "p.yaml")
    assert policy.role_for(caller("ml"), None).warehouse == "ML_WH"
    assert policy.role_for(caller("ml", "pii"), "pii_reader").vault_role == "pii-reader"
    for groups, asked, reason in (
        (("nobody",), None, "NO_ROLE"),
        (("ml", "pii"), None, "ROLE_AMBIGUOUS"),
        (("ml",), "PII_READER", "ROLE_NOT_MAPPED"),
        (("ml",), '"ml_reader"', "ROLE_NOT_MAPPED"),
    ):
        with pytest.raises(PolicyDenied) as caught:
            policy.role_for(caller(*groups), asked)
        assert caught.value.reason == reason
    with pytest.raises(PolicyDenied, match="ML_READER, PII_READER"):
        policy.role_for(caller("ml", "pii"), None)


LOAD = (
    "  - {name: load, groups: [agents], kinds: [create_temp_stage, put, copy_into_table], "
    'writes: ["PROD.FEATURES.*"], then: allow}\n'
)


@pytest.mark.parametrize(
    "sql",
    ["CREATE TEMP STAGE s", "CREATE TEMP FILE FORMAT f TYPE = CSV", "DROP STAGE s", "PUT file:///x/a.csv @~",
     "PUT file:///x/a.csv @s/in",
     "SELECT * FROM TABLE(INFER_SCHEMA(LOCATION => '@s', FILE_FORMAT => 'f'))", "COPY INTO PROD.FEATURES.CHURN FROM @s"],
)  # fmt: skip
def test_loading_files_needs_a_rule_that_names_it(sql: str) -> None:
    assert ask(sql).decision.outcome is Outcome.DENY
    assert ask(sql, READ + LOAD, groups=("others",)).decision.outcome is Outcome.DENY
    verdict = ask(sql, READ + LOAD)
    assert verdict.decision.outcome is Outcome.ALLOW and verdict.rewritten is not None


def test_a_load_is_granted_by_its_table_and_not_by_its_stage() -> None:
    denied = ask("COPY INTO PROD.CRM.ORDERS FROM @PROD.FEATURES.s", READ + LOAD)
    assert denied.decision.reasons[0].code == "NOT_GRANTED"
    assert ask("COPY INTO PROD.FEATURES.NONE FROM @s", READ + LOAD).decision.reasons[0].code == "UNKNOWN_OBJECT"  # fmt: skip


def test_a_load_into_a_masked_table_is_refused_to_who_sees_it_masked() -> None:
    rules = READ + LOAD.replace("PROD.FEATURES.*", "PROD.CRM.*")
    sql = "COPY INTO PROD.CRM.CUSTOMERS (ID) FROM @s"
    assert ask(sql, rules, head=MASK).decision.reasons[0].code == "WRITE_TO_PROTECTED"


def test_who_loads_is_asked_where_a_rule_says_so() -> None:
    held = (
        "  - {name: held, kinds: [put, copy_into_table], then: require_approval, "
        "approval: {approvers: [owners], quorum: 1}}\n"
    )
    for sql in ("PUT file:///a @~", "COPY INTO PROD.FEATURES.CHURN FROM @s"):
        assert ask(sql, READ + LOAD + held).decision.outcome is Outcome.REQUIRE_APPROVAL
