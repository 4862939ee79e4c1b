"""`hoop snowflake setup-sql`: what it prints, what it refuses, and that no name can become SQL."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot.dialects.snowflake import Snowflake
from sqlglot.tokenizer_core import TokenType
from typer.testing import CliRunner

from hoop_core.cli.root import app
from hoop_core.devstack.vault_plugin.statements import render
from hoop_core.errors import ConfigError
from hoop_core.policy.file import parse_policy
from hoop_core.policy.setup_roles import reader_roles
from hoop_core.snowflake.quoting import identifier, literal, remark
from hoop_core.snowflake.setup import SetupNames, SetupPlan, as_text, sections
from hoop_core.snowflake.setup_grants import ReaderRole, Write
from hoop_core.snowflake.setup_inputs import addresses, public_key
from hoop_core.snowflake.vault_roles import as_commands, creation_statements, vault_bodies

HOME = ("203.0.113.7/32",)
POLICY = """
version: 1
hash_function: gov.masks.keyed_hash
roles:
  - {groups: [agents], vault_role: reader, snowflake_role: AGENT_ROLE, warehouse: WH}
  - {groups: [owners], vault_role: owner, snowflake_role: OWNER_ROLE}
masks:
  - {columns: ["P.CRM.PEOPLE.EMAIL"], mask: hash}
rules:
  - {name: r1, groups: [agents], reads: ["P.CRM.*", "P.X.T", "Q.*.*", "*.CRM.T", "P.*.T"], then: allow}
  - {name: r2, groups: [agents], kinds: [merge, create_table_as], writes: ["P.OUT.*"], then: allow}
  - {name: r3, kinds: [drop_table], writes: ["P.OUT.*"], then: allow}
  - {name: r4, groups: [agents], reads: ["SECRET.S.T"], then: deny}
"""


def plan(readers: tuple[ReaderRole, ...] = (), **names: str) -> SetupPlan:
    return SetupPlan(HOME, HOME, "MIIB", readers, SetupNames(**names))  # type: ignore[arg-type]


def statements(p: SetupPlan) -> list[str]:
    return [s for part in sections(p) for s in part.statements]


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path = tmp_path / "vault.pub"
    path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return path


# -- the roles follow from the policy ---------------------------------------------------------------


def test_a_role_gets_what_the_allow_rules_of_its_groups_say() -> None:
    text = "\n".join(statements(plan(reader_roles(parse_policy(POLICY, "p")))))
    for wanted in (
        "GRANT SELECT ON ALL TABLES IN SCHEMA P.CRM TO ROLE AGENT_ROLE",
        "GRANT SELECT ON FUTURE TABLES IN SCHEMA P.CRM TO ROLE AGENT_ROLE",
        "GRANT SELECT ON TABLE P.X.T TO ROLE AGENT_ROLE",
        "GRANT SELECT ON ALL TABLES IN DATABASE Q TO ROLE AGENT_ROLE",
        "GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA P.OUT TO ROLE AGENT_ROLE",
        "GRANT CREATE TABLE ON SCHEMA P.OUT TO ROLE AGENT_ROLE",
        "GRANT USAGE ON WAREHOUSE WH TO ROLE AGENT_ROLE",
        "GRANT USAGE ON WAREHOUSE ML_WH TO ROLE OWNER_ROLE",
    ):
        assert wanted in text
    assert "SECRET" not in text.replace("SECRET)", "").replace("(SECRET", "")
    assert "SELECT ON ALL TABLES IN SCHEMA P.CRM TO ROLE OWNER_ROLE" not in text


def test_what_no_grant_can_express_is_said_to_people() -> None:
    parts = sections(plan(reader_roles(parse_policy(POLICY, "p"))))
    why = "\n".join(line for part in parts for line in part.why)
    assert "read *.CRM.T" in why and "read P.*.T" in why
    assert "Needs ownership, grant by hand: drop_table on P.OUT.*" in why


@pytest.mark.parametrize("role", ["ACCOUNTADMIN", "SYSADMIN", "VAULT_MINTER", "HOOP_GOVERNANCE"])
def test_a_role_that_belongs_to_somebody_else_is_not_handed_to_vault(role: str) -> None:
    with pytest.raises(ConfigError, match=role):
        sections(plan((ReaderRole("v", role),)))
    with pytest.raises(ConfigError, match=role):
        vault_bodies(SetupNames(), (ReaderRole("v", role),), "o", "snowflake")


def test_the_hash_key_is_made_inside_snowflake_and_only_where_there_is_none() -> None:
    made = [s for s in statements(plan()) if s.startswith("INSERT")]
    assert len(made) == 1 and "WHERE NOT EXISTS (SELECT 1 FROM GOVERNANCE.HOOP.HASH_KEY)" in made[0]
    assert "NEW_HASH_KEY()" in made[0]
    assert not any(s.startswith(("DELETE", "UPDATE", "TRUNCATE")) for s in statements(plan()))
    assert not any("CREATE OR REPLACE TABLE" in s or "DROP TABLE" in s for s in statements(plan()))


def test_readers_get_the_function_and_never_its_table() -> None:
    readers = (ReaderRole("v", "READER", None, (("P", "CRM", "*"),)),)
    granted = [s for s in statements(plan(readers)) if "TO ROLE READER" in s and "GRANT" in s]
    assert any("FUNCTION GOVERNANCE.HOOP.MASK_HASH(VARCHAR, VARCHAR)" in s for s in granted)
    assert not any("HASH_KEY" in s or "IN DATABASE GOVERNANCE" in s for s in granted)


# -- names that try to be SQL -----------------------------------------------------------------------

_MARKS = ("$$", "{{", "}}")
_NASTY = st.text(
    st.sampled_from("ab\"';-/*$\\{}() .,ſ#@%A_1\n\x00") | st.characters(codec="utf-8"),
    min_size=1,
    max_size=24,
)
_PIECE = st.text(st.sampled_from("ab\"';-/*\\() .,ſ日#@%A_1"), max_size=8)
_QUOTED = st.builds(
    lambda before, odd, after: f"{before}{odd}{after}",
    _PIECE,
    st.sampled_from(
        ['"', "'", ";", "--", "/*", "*/", "//", " ", "\\", ".", '";DROP USER x;"', "ß"]
    ),
    _PIECE,
)
"""Names that can be used, but in double quotes only."""
_PLAIN = [f"PLAIN{n}" for n in range(8)]


def _plan_of(names: list[str]) -> SetupPlan:
    role, warehouse, database, schema, table, governance, policy, user = names
    reader = ReaderRole(
        "vault",
        role,
        warehouse,
        ((database, schema, table), (database, schema, "*"), ("*", schema, table)),
        (Write((database, schema, table), ("INSERT", "CREATE TABLE"), ("drop_table",)),),
    )
    return plan((reader,), governance_role=governance, network_policy=policy, minter_user=user)


def _shape(sql: str, names: list[str]) -> list[str]:
    """The tokens, with every one of `names` replaced by its place in the list."""
    shape = []
    for token in Snowflake().tokenize(sql):
        name = token.token_type is TokenType.IDENTIFIER or token.text in _PLAIN
        known = name and token.text in names
        shape.append(f"name {names.index(token.text)}" if known else f"{token.text}")
    return shape


@given(st.lists(_QUOTED, min_size=8, max_size=8, unique=True))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_name_changes_the_shape_of_a_statement(names: list[str]) -> None:
    hostile = sections(_plan_of(names))
    for part, model in zip(hostile, sections(_plan_of(_PLAIN)), strict=True):
        got = [_shape(s, names) for s in part.statements]
        assert got == [_shape(s, _PLAIN) for s in model.statements]
        assert all(";" not in shape for shape in got)
    script = "".join(part.sql for part in hostile)
    assert _shape(as_text(hostile), names) == _shape(script, names), "a comment became SQL"


@given(_NASTY)
def test_a_name_is_one_token_that_means_it_or_is_refused(name: str) -> None:
    try:
        written = identifier(name)
    except ConfigError:
        assert not name.isprintable() or any(m in name for m in _MARKS)
        return
    tokens = Snowflake().tokenize(written)
    assert [t.text for t in tokens] == [name]


@given(st.text(max_size=40))
def test_a_literal_is_one_token_that_means_its_text(text: str) -> None:
    tokens = Snowflake().tokenize(literal(text))
    assert [t.token_type for t in tokens] == [TokenType.STRING]
    assert tokens[0].text == text


@given(st.text(max_size=60))
def test_a_remark_is_one_line_of_ascii(text: str) -> None:
    assert remark(text).isascii() and len(remark(text).splitlines()) <= 1


def test_reserved_words_and_lower_case_are_quoted() -> None:
    assert identifier("ML_WH") == "ML_WH"
    assert (identifier("TABLE"), identifier("crm"), identifier('a"b')) == (
        '"TABLE"',
        '"crm"',
        '"a""b"',
    )


# -- what the administrator gives -------------------------------------------------------------------


def test_addresses_are_merged_and_written_as_networks() -> None:
    assert addresses(["10.0.0.7", "10.0.1.0/24", "10.0.0.0/24"], "x") == ("10.0.0.0/23",)


@pytest.mark.parametrize("given_", [["0.0.0.0/0"], ["0.0.0.0/1", "128.0.0.0/1"], ["8.0.0.0/7"], []])
def test_addresses_that_bound_nothing_are_refused(given_: list[str]) -> None:
    with pytest.raises(ConfigError):
        addresses(given_, "--hoop-address")


def test_any_address_needs_the_unsafe_option() -> None:
    assert addresses(["0.0.0.0/0"], "x", any_address=True) == ("0.0.0.0/0",)


@pytest.mark.parametrize("text", ["::1", "10.0.0.1/24", "example.com", "10.0.0.1'); DROP", ""])
def test_what_is_no_ipv4_network_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="IPv4"):
        addresses([text], "--hoop-address")


def test_a_private_key_is_refused_and_not_shown() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem_ = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(ConfigError, match="private key") as caught:
        public_key(pem_, "k.pem")
    assert pem_.decode().splitlines()[1] not in str(caught.value)


def test_a_key_that_snowflake_would_refuse_is_refused() -> None:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    for key in (small.public_key(), ec.generate_private_key(ec.SECP256R1()).public_key()):
        pem_ = key.public_bytes(serialization.Encoding.PEM, form)
        with pytest.raises(ConfigError, match="2048"):
            public_key(pem_, "k.pem")


# -- Vault's side -----------------------------------------------------------------------------------


def test_a_minted_user_is_bound_to_the_network_policy_from_birth() -> None:
    made = render(
        creation_statements("READER", "WH", "HOOP_ONLY"),
        {"name": "V_X", "public_key": "MIIB", "expiration": "1"},
    )
    assert len(made) == 2
    for wanted in (
        "TYPE = SERVICE",
        "NETWORK_POLICY = HOOP_ONLY",
        "DEFAULT_SECONDARY_ROLES = ()",
        "DAYS_TO_EXPIRY = 1",
    ):
        assert wanted in made[0]


@pytest.mark.parametrize("name", ["a;DROP USER x", "{{public_key}}", "a}b"])
def test_a_name_that_vault_would_interpret_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        creation_statements(name, "WH", "HOOP_ONLY")


def test_a_vault_role_with_two_meanings_is_refused() -> None:
    readers = (ReaderRole("v", "A"), ReaderRole("v", "B"))
    with pytest.raises(ConfigError, match="two meanings"):
        vault_bodies(SetupNames(), readers, "observer", "snowflake")


def test_the_vault_commands_hold_no_private_key_and_are_words_of_a_shell() -> None:
    text = as_commands(vault_bodies(SetupNames(), (ReaderRole("v", "A"),), "observer", "snowflake"))
    first = text[text.index("vault write") : text.index("vault write database/roles/v")]
    words = shlex.split(first.replace("\\\n", ""))
    assert words[:3] == ["vault", "write", "database/config/snowflake"]
    assert "private_key=@vault-minter-private-key.pem" in words
    body = text.split("<<'END_OF_ROLE'\n")[1].split("\nEND_OF_ROLE")[0]
    assert json.loads(body)["credential_type"] == "rsa_private_key"


# -- the command ------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["snowflake", "setup-sql", *arguments])
    return done.exit_code, done.stdout + done.stderr


def test_the_command_prints_titles_and_sql(pem: Path, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text(POLICY)
    options = [
        "--hoop-address",
        "203.0.113.7",
        "--vault-public-key",
        str(pem),
        "--policy",
        str(policy),
    ]
    code, text = run(*options, "--json")
    parts = json.loads(text)
    assert code == 0 and {"title", "sql"} == set(parts[0])
    whole = "".join(p["sql"] for p in parts)
    assert "GOV.MASKS.KEYED_HASH(VALUE VARCHAR" in whole and "AGENT_ROLE" in whole
    code, script = run(*options)
    assert code == 0 and "-- 1. Roles" in script and "'203.0.113.7/32'" in script


def test_the_function_that_is_made_must_be_the_one_that_masks_call(
    pem: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text(POLICY)
    code, text = run(
        *("--hoop-address", "203.0.113.7", "--vault-public-key", str(pem)),
        *("--policy", str(policy), "--hash-function", "A.B.C"),
    )
    assert code == 2 and "GOV.MASKS.KEYED_HASH" in text


def test_missing_and_unsafe_addresses_are_usage_errors(pem: Path) -> None:
    key = ("--vault-public-key", str(pem))
    assert run(*key)[0] == 2
    assert run(*key, "--hoop-address", "0.0.0.0/0")[0] == 2
    assert run(*key, "--hoop-address", "0.0.0.0/0", "--unsafe-any-address")[0] == 0
    code, text = run("--hoop-address", "203.0.113.7", "--json")
    assert code == 2 and "--vault-public-key" in json.loads(text)["error"]["message"]


@pytest.mark.parametrize("name", ["HOOP.MASK_HASH", "A.B.C.D", 'A.B."c"', "A.B.C$$D", "A..B", 7])
def test_a_hash_function_in_the_policy_has_three_plain_parts(name: object) -> None:
    with pytest.raises(ConfigError, match=r"hash_function|DATABASE"):
        parse_policy(f"version: 1\nhash_function: {json.dumps(name)}\n", "p.yaml")


def test_who_loads_files_may_make_a_stage_beside_the_table() -> None:
    policy = POLICY.replace("kinds: [merge,", "kinds: [copy_into_table, merge,")
    text = statements(plan(reader_roles(parse_policy(policy, "p"))))
    assert "GRANT CREATE STAGE ON SCHEMA P.OUT TO ROLE AGENT_ROLE" in text
    assert "GRANT CREATE FILE FORMAT ON SCHEMA P.OUT TO ROLE AGENT_ROLE" in text
