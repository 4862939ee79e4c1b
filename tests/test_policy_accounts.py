"""Roles and rules for some accounts only; what protects holds in all of them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hoop_core.analysts.pool import Analysts
from hoop_core.analysts.question import Question
from hoop_core.approvals.binding import Binding
from hoop_core.approvals.exceptions import scope_of
from hoop_core.cli.policy import app
from hoop_core.config import AnalysisSettings
from hoop_core.errors import ConfigError, PolicyDenied
from hoop_core.judge import judge_text
from hoop_core.model import (
    Identity,
    NameContext,
    Outcome,
    RoleBinding,
    RunContext,
    TableName,
    account_key,
)
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy
from hoop_core.rehearsal.cases import run_case
from hoop_core.sql.catalog import Catalog, CatalogObject

TABLE = TableName("PROD", "CRM", "CUSTOMERS")
POLICY = """
version: 1
roles:
  - {groups: [ml], vault_role: reader, snowflake_role: READER, accounts: [myorg-prod]}
  - {groups: [ml], vault_role: dev, snowflake_role: DEV, accounts: [myorg-dev, MYORG_TEST]}
masks:
  - {columns: ["PROD.CRM.CUSTOMERS.EMAIL"], mask: "null"}
rules:
  - {name: read-dev, groups: [ml], accounts: [myorg-dev], reads: ["PROD.CRM.*"], then: allow}
  - {name: not-in-test, accounts: [myorg-test], then: deny}
"""
ML = Identity("https://idp", "job", "job", ("ml",), "oidc", "x")
CATALOG = Catalog.of({TABLE: CatalogObject({"ID": "NUMBER", "EMAIL": "VARCHAR"})})


def policy(account: str) -> Policy:
    return parse_policy(POLICY, "policy.yaml").for_account(account)


def outcome(account: str) -> Outcome:
    verdict = judge_text(
        "SELECT EMAIL FROM PROD.CRM.CUSTOMERS",
        NameContext("PROD", "CRM"),
        identity=ML,
        policy=policy(account),
        catalog=CATALOG,
        run=RunContext(),
        now=datetime.now(UTC),
    )
    if verdict.decision.outcome is Outcome.ALLOW:
        assert [m.column for m in verdict.decision.masked] == ["EMAIL"]
    return verdict.decision.outcome


def test_a_caller_becomes_what_the_account_that_was_chosen_says() -> None:
    assert policy("myorg-prod").role_for(ML, None).snowflake_role == "READER"
    assert policy("MYORG_DEV").role_for(ML, None).snowflake_role == "DEV"


@pytest.mark.parametrize("account", ["", "elsewhere", "myorg"])
def test_an_account_that_no_role_names_gives_no_role(account: str) -> None:
    with pytest.raises(PolicyDenied) as refused:
        policy(account).role_for(ML, None)
    assert refused.value.reason == "NO_ROLE"


def test_a_rule_grants_in_its_accounts_only_and_masks_hold_there() -> None:
    assert outcome("myorg-dev") is Outcome.ALLOW
    assert outcome("myorg-prod") is Outcome.DENY


def test_a_deny_of_one_account_is_not_heard_in_another() -> None:
    both = POLICY.replace("accounts: [myorg-dev], reads", "reads")
    for account, expected in (("myorg-test", Outcome.DENY), ("myorg-prod", Outcome.ALLOW)):
        narrowed = parse_policy(both, "p").for_account(account)
        rules = [r.name for r in narrowed.rules]
        assert ("not-in-test" in rules) is (expected is Outcome.DENY)


@pytest.mark.parametrize(
    ("written", "key"),
    [("myorg-prod", "MYORG-PROD"), ("MyOrg_Prod", "MYORG-PROD"), ("xy12345.eu-west-1", "XY12345")],
)
def test_account_names_are_compared_as_snowflake_does(written: str, key: str) -> None:
    assert account_key(written) == key


def test_narrowing_keeps_the_digest_of_the_file_and_tells_the_accounts_apart() -> None:
    whole = parse_policy(POLICY, "p")
    assert whole.digest == policy("a").digest == policy("b").digest
    assert len({whole.key, policy("a").key, policy("b").key}) == 3


def test_a_policy_that_names_no_account_is_one_policy_for_all() -> None:
    plain = parse_policy("version: 1\n", "p")
    assert plain.for_account("a") is plain


def test_a_grant_and_an_exception_hold_in_their_account_only() -> None:
    role = RoleBinding("reader", "READER")
    binding = Binding(
        identity=ML,
        role=role,
        fingerprint="f",
        executed_sha256="e",
        parameters_sha256="p",
        policy_digest="d",
        catalog_digest="c",
        run=RunContext(),
        account="A",
    )
    assert binding.digest != replace(binding, account="B").digest
    plain = parse_policy("version: 1\n", "p")
    assert scope_of(ML, role, plain, "A") != scope_of(ML, role, plain, "B")


def test_an_empty_list_of_accounts_is_a_mistake() -> None:
    with pytest.raises(ConfigError):
        parse_policy(
            "version: 1\nrules:\n  - {name: r, accounts: [], reads: [A.B.C], then: allow}\n", "p"
        )


def test_a_worker_judges_by_the_policy_of_the_account() -> None:
    async def judged(account: str) -> Outcome:
        analysts = Analysts(AnalysisSettings(workers=1, deadline_seconds=20))
        analysts.start(parse_policy(POLICY, "p"))
        try:
            question = Question(
                sql="SELECT EMAIL FROM PROD.CRM.CUSTOMERS",
                names=NameContext("PROD", "CRM"),
                identity=ML,
                policy=policy(account),
                run=RunContext(),
                now=datetime.now(UTC),
            )

            async def catalog(_tables: tuple[TableName, ...]) -> Catalog:
                return CATALOG

            return (await analysts.judge(question, catalog)).verdict.decision.outcome
        finally:
            await analysts.close()

    assert asyncio.run(judged("myorg-dev")) is Outcome.ALLOW
    assert asyncio.run(judged("myorg-prod")) is Outcome.DENY


def test_explain_and_cases_look_at_one_account(tmp_path: Path) -> None:
    case = "\ncases:\n  - {name: c, sql: SELECT ID FROM PROD.CRM.CUSTOMERS, groups: [ml], %s expect: %s}\n"
    for given, expected in (("account: myorg_dev,", "allow"), ("", "deny")):
        found = parse_policy(POLICY + case % (given, expected), "p")
        assert not run_case(found.cases[0], found, CATALOG, datetime.now(UTC)).faults
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY + "\ncatalog: catalog.yaml\n")
    (tmp_path / "catalog.yaml").write_text(
        "tables: {PROD.CRM.CUSTOMERS: {ID: NUMBER, EMAIL: VARCHAR}}\n"
    )
    for account, expected in (("myorg-dev", "allow"), ("myorg-prod", "deny")):
        line = {"id": 1, "sql": "SELECT 1 FROM PROD.CRM.CUSTOMERS", "account": account}
        arguments = ["explain", "--policy", str(file), "--groups", "ml"]
        done = CliRunner().invoke(app, arguments, input=json.dumps(line))
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["decision"] == expected
