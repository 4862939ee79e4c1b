"""The SQL that an account administrator runs once, so that Snowflake itself holds what Hoop promises.

Governance schema and keyed hash, Vault's user, the roles, and network policies that admit minted users
from Hoop's addresses only. Running it again changes nothing, least of all the hash key.

https://docs.snowflake.com/en/user-guide/network-policies · sql-reference/sql/create-network-rule ·
sql-reference/sql/create-user · developer-guide/udf/sql/udf-sql-introduction ·
developer-guide/secure-udf-procedure
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hoop_core.errors import ConfigError
from hoop_core.snowflake.quoting import dotted, identifier, literal, remark
from hoop_core.snowflake.setup_grants import ReaderRole, observer_grants, reader_grants

KEY_TABLE, KEY_MAKER = "HASH_KEY", "NEW_HASH_KEY"
HOOP_RULE, VAULT_RULE, KEY_PAIR_ONLY = "HOOP_ADDRESSES", "VAULT_ADDRESSES", "KEY_PAIR_ONLY"
END_PROCEDURE = "END_MINTED_USER"
SYSTEM_ROLES = frozenset(
    {
        "ACCOUNTADMIN",
        "GLOBALORGADMIN",
        "ORGADMIN",
        "PUBLIC",
        "SECURITYADMIN",
        "SYSADMIN",
        "USERADMIN",
    }
)


@dataclass(frozen=True, slots=True)
class SetupNames:
    """Object names in stored case; the defaults are those of the demo and of the documentation.

    The function's database and schema are the governance database and schema.
    """

    hash_function: tuple[str, str, str] = ("GOVERNANCE", "HOOP", "MASK_HASH")
    governance_role: str = "HOOP_GOVERNANCE"
    minter_role: str = "VAULT_MINTER"
    minter_user: str = "VAULT_MINTER_SVC"
    observer_role: str = "HOOP_OBSERVER"
    network_policy: str = "HOOP_ONLY"
    vault_network_policy: str = "HOOP_VAULT_ONLY"
    warehouse: str = "ML_WH"

    def governed(self, name: str) -> str:
        """An object of the governance schema, fully qualified."""
        return dotted(self.hash_function[0], self.hash_function[1], name)

    @property
    def roles(self) -> tuple[str, str, str]:
        return self.governance_role, self.minter_role, self.observer_role


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """`addresses` are IPv4 networks as `addresses()` checks them; `vault_key` as `public_key()`."""

    hoop_addresses: tuple[str, ...]
    vault_addresses: tuple[str, ...]
    vault_key: str
    readers: tuple[ReaderRole, ...] = ()
    names: SetupNames = field(default_factory=SetupNames)


@dataclass(frozen=True, slots=True)
class Section:
    """Statements that belong together, without separators; `why` are lines for people."""

    title: str
    why: tuple[str, ...]
    statements: tuple[str, ...]

    @property
    def sql(self) -> str:
        return "".join(f"{s};\n" for s in self.statements)


def sections(plan: SetupPlan) -> tuple[Section, ...]:
    """The whole setup in its order. Raises ConfigError for names that cannot be used."""
    check_roles(plan.names, plan.readers)
    return (
        _roles(plan),
        _governance(plan.names),
        _network(plan),
        *vault_user(plan),
        *(_reader(plan.names, r) for r in _distinct(plan.readers)),
        _observer(plan),
        _ending(plan),
        _look(plan),
    )


NO_POLICY = (
    "No policy was given, so no role may read anything: give --policy for the roles that Vault hands",
    "out and their grants, and for what the observer may look at.",
)


def as_text(parts: Iterable[Section], notes: Iterable[str] = ()) -> str:
    """The sections as one script with comments."""
    out = [
        "-- Hoop: what an account administrator runs once. Run it as a user who holds ACCOUNTADMIN.",
        "-- Running it again is safe: the hash key and all data stay as they are. All that it drops is the",
        "-- function that it makes to generate the key.",
        "-- It takes no grant back. After a change of the policy compare: SHOW GRANTS TO ROLE <role>, SHOW",
        "-- FUTURE GRANTS TO ROLE <role>. What is too much: REVOKE <privilege> ON <object> FROM ROLE <role>.",
        *(f"-- {remark(note)}" for note in notes),
        "",
    ]
    for number, part in enumerate(parts, 1):
        out += [f"-- {number}. {remark(part.title)}", *(f"-- {remark(w)}" for w in part.why)]
        out += [part.sql]
    return "\n".join(out)


def check_roles(names: SetupNames, readers: Iterable[ReaderRole]) -> None:
    """A role that Vault hands out becomes Vault's property: it must not be anybody else's.

    Raises ConfigError.
    """
    taken = SYSTEM_ROLES | set(names.roles)
    for reader in readers:
        if reader.snowflake_role in taken:
            raise ConfigError(
                f"The policy maps a group to {remark(reader.snowflake_role)}, which is a role of the "
                "account or of Hoop itself.",
                "Give each group of the policy a Snowflake role of its own.",
            )
    if len(set(names.roles)) != len(names.roles) or SYSTEM_ROLES & set(names.roles):
        raise ConfigError(
            "The governance, minter and observer roles must be three roles of Hoop's own."
        )


def _distinct(readers: Iterable[ReaderRole]) -> tuple[ReaderRole, ...]:
    """One for each Snowflake role; several Vault roles may lead to the same one."""
    found: dict[str, ReaderRole] = {}
    for reader in readers:
        known = found.get(reader.snowflake_role)
        found[reader.snowflake_role] = reader if known is None else known.joined(reader)
    return tuple(found.values())


def _roles(plan: SetupPlan) -> Section:
    names = plan.names
    governance, minter, observer = map(identifier, names.roles)
    made = [
        "USE ROLE SECURITYADMIN",
        "USE SECONDARY ROLES NONE",
        f"CREATE ROLE IF NOT EXISTS {governance} "
        "COMMENT = 'Owns the key and the function of hash masks, and nobody works with it'",
        f"GRANT ROLE {governance} TO ROLE ACCOUNTADMIN",
        f"CREATE ROLE IF NOT EXISTS {minter} "
        "COMMENT = 'Vault makes and drops users with this role'",
        f"GRANT ROLE {minter} TO ROLE SECURITYADMIN",
        f"CREATE ROLE IF NOT EXISTS {observer} "
        "COMMENT = 'Hoop describes tables and lists users with it, and reads no row'",
    ]
    for reader in _distinct(plan.readers):
        role = identifier(reader.snowflake_role)
        made += [
            f"CREATE ROLE IF NOT EXISTS {role} COMMENT = 'Given to users that Vault mints for Hoop'",
        ]
        if reader.makes_tables:
            made.append(f"GRANT ROLE {role} TO ROLE SYSADMIN")
    why = (
        "Least privilege: each of them can do one thing. A role that makes tables owns them, and is",
        "granted to SYSADMIN, as Snowflake advises, so that somebody can manage what it owns. No other",
        "role of Hoop is: such a grant hands on the right to read, past the gateway.",
        "https://docs.snowflake.com/en/user-guide/security-access-control-considerations",
    )
    return Section("Roles", why, tuple(made))


def _governance(names: SetupNames) -> Section:
    """The key is made by Snowflake, inside Snowflake: it is in no text that anybody sends.

    HMAC's form (RFC 2104) with two independent keys in place of the two paddings (the NMAC from which
    HMAC is derived): each fills one block of SHA-256 with 64 hexadecimal digits, 256 bits of entropy.
    SHA2 is documented for text only, so the inner digest enters the outer hash in hexadecimal, which is
    of fixed length and loses nothing. The domain's length makes (domain, value) unambiguous.
    Uncorrelated scalar subqueries are the documented form for a table in a scalar SQL function; a FROM
    next to the arguments would be a correlated one ("Unsupported subquery type").
    """
    database, schema, _ = names.hash_function
    role, warehouse = identifier(names.governance_role), identifier(names.warehouse)
    key, maker = names.governed(KEY_TABLE), names.governed(KEY_MAKER)
    function = dotted(*names.hash_function)
    secret = f"(SELECT MAX(SECRET) FROM {key})"  # noqa: S608 (quoted above)
    return Section(
        "Governance schema, hash key, hash function",
        (
            "Masks of the kind `hash` call the function. Its key must not stand in any statement, for",
            "QUERY_HISTORY shows statements with their literals, and binds can be read for days.",
            "So Snowflake makes the key itself, from the operating system's cryptographic generator",
            "(Python's `secrets`: RANDOM and RANDSTR are seeded with 64 bits, UUID_STRING promises",
            "uniqueness only), into a table that no role but the function's owner can read. A SQL",
            "function reads tables with its owner's rights, and SECURE hides its text and its plan.",
            "Callers get USAGE on the function alone. The managed schema lets nobody pass on more.",
            "A database of its own is best: grants on FUTURE TABLES IN DATABASE would reach the key.",
            "Without its key the function answers NULL. To rotate the key (all hashes change): delete",
            f"the row of {key} and run this section again.",
        ),
        (
            "USE ROLE ACCOUNTADMIN",
            f"CREATE DATABASE IF NOT EXISTS {identifier(database)} COMMENT = 'What Hoop governs with'",
            f"GRANT USAGE, CREATE SCHEMA ON DATABASE {identifier(database)} TO ROLE {role}",
            f"GRANT USAGE ON WAREHOUSE {warehouse} TO ROLE {role}",
            f"USE ROLE {role}",
            f"USE WAREHOUSE {warehouse}",
            f"CREATE SCHEMA IF NOT EXISTS {dotted(database, schema)} WITH MANAGED ACCESS",
            f"CREATE TABLE IF NOT EXISTS {key} (SECRET VARCHAR(128) NOT NULL)",
            f"CREATE OR REPLACE SECURE FUNCTION {maker}()\n"
            "RETURNS VARCHAR\nVOLATILE\nLANGUAGE PYTHON\nRUNTIME_VERSION = '3.12'\n"
            "HANDLER = 'new_hash_key'\nAS $$\n"
            "import secrets\n\n\ndef new_hash_key():\n    return secrets.token_hex(64)\n$$",
            f"INSERT INTO {key} (SECRET)\n"  # noqa: S608 (quoted above)
            f"SELECT {maker}() WHERE NOT EXISTS (SELECT 1 FROM {key})",
            f"DROP FUNCTION {maker}()",
            f"CREATE OR REPLACE SECURE FUNCTION {function}(VALUE VARCHAR, DOMAIN VARCHAR)\n"
            "COPY GRANTS\nRETURNS VARCHAR\n"
            "COMMENT = 'Keyed hash of a value: 64 hexadecimal digits, equal within one domain'\n"
            "AS $$\n"
            f"SHA2(\n    LEFT({secret}, 64)\n"
            f"    || SHA2(\n        RIGHT({secret}, 64)\n"
            "        || TO_VARCHAR(LENGTH(DOMAIN)) || ':' || DOMAIN || ':' || VALUE,\n"
            "        256\n    ),\n    256\n)\n$$",
        ),
    )


def _network(plan: SetupPlan) -> Section:
    """https://docs.snowflake.com/en/user-guide/network-policies (precedence, who may activate)

    https://docs.snowflake.com/en/release-notes/bcr-bundles/2023_07/bcr-1337 (no replacing in use)
    """
    names = plan.names
    made = [f"USE ROLE {identifier(names.governance_role)}"]
    for rule, addresses in (
        (HOOP_RULE, plan.hoop_addresses),
        (VAULT_RULE, plan.vault_addresses),
    ):
        if not addresses:
            raise ConfigError(f"{rule} needs at least one address.")
        made.append(
            f"CREATE OR ALTER NETWORK RULE {names.governed(rule)}\n  TYPE = IPV4\n"
            f"  VALUE_LIST = ({', '.join(map(literal, addresses))})\n  MODE = INGRESS"
        )
    made.append("USE ROLE ACCOUNTADMIN")
    for policy, rule in (
        (names.network_policy, HOOP_RULE),
        (names.vault_network_policy, VAULT_RULE),
    ):
        made.append(
            f"CREATE OR ALTER NETWORK POLICY {identifier(policy)}\n"
            f"  ALLOWED_NETWORK_RULE_LIST = ({literal(names.governed(rule))})"
        )
    made.append(
        f"GRANT OWNERSHIP ON NETWORK POLICY {identifier(names.network_policy)} "
        f"TO ROLE {identifier(names.minter_role)} COPY CURRENT GRANTS"
    )
    return Section(
        "Network: minted users come in from Hoop's addresses only",
        (
            "A policy on a user takes precedence over the account's, so that a key that leaks, or a way",
            "around the gateway, reaches nothing from anywhere else. Each minted user gets it at birth.",
            "Only the owner of both a user and a policy may bring them together, hence the ownership, but",
            "the addresses stand in a rule that the minter does not own. Vault has a policy of its own.",
            "IPv4 rules do not speak of private connectivity: add rules of its type if you use it.",
        ),
        tuple(made),
    )


def vault_user(plan: SetupPlan) -> tuple[Section, ...]:
    """Vault's own user: what the database engine signs in with, and the one thing it may do.

    https://developer.hashicorp.com/vault/docs/secrets/databases/snowflake
    """
    names = plan.names
    user, role = identifier(names.minter_user), identifier(names.minter_role)
    policy = identifier(names.vault_network_policy)
    only_keys = names.governed(KEY_PAIR_ONLY)
    return (
        Section(
            "Vault's user",
            (
                "CREATE USER for minting. The minted users belong to the role, so it may drop them. It",
                "can hand on the roles that it owns (below) and has no MANAGE GRANTS. Signs in with its",
                "key pair only, from Vault's addresses only. An existing user keeps its key: to change",
                "it, ALTER USER ... SET RSA_PUBLIC_KEY, or let Vault rotate it.",
            ),
            (
                "USE ROLE SECURITYADMIN",
                f"GRANT CREATE USER ON ACCOUNT TO ROLE {role}",
                "USE ROLE ACCOUNTADMIN",
                f"CREATE USER IF NOT EXISTS {user} TYPE = SERVICE\n"
                f"  RSA_PUBLIC_KEY = {literal(plan.vault_key)}\n"
                f"  DEFAULT_ROLE = {role} DEFAULT_SECONDARY_ROLES = ()\n"
                f"  NETWORK_POLICY = {policy} COMMENT = 'The credential broker of Hoop'",
                f"ALTER USER {user} SET NETWORK_POLICY = {policy}",
                f"GRANT ROLE {role} TO USER {user}",
                f"USE ROLE {identifier(names.governance_role)}",
                f"CREATE AUTHENTICATION POLICY IF NOT EXISTS {only_keys} "
                "AUTHENTICATION_METHODS = ('KEYPAIR')",
                "USE ROLE ACCOUNTADMIN",
                f"ALTER USER {user} SET AUTHENTICATION POLICY {only_keys} FORCE",
            ),
        ),
    )


def _reader(names: SetupNames, reader: ReaderRole) -> Section:
    role = identifier(reader.snowflake_role)
    granted = reader_grants(reader, names.warehouse)
    return Section(
        f"Role {reader.snowflake_role}",
        (
            "A ceiling, not the policy: Hoop decides each statement, and this bounds what a mistake of",
            "Hoop's could do. Nobody else should use the role: it becomes Vault's to hand out.",
            *granted.hints,
        ),
        (
            "USE ROLE SECURITYADMIN",
            f"GRANT USAGE ON DATABASE {identifier(names.hash_function[0])} TO ROLE {role}",
            f"GRANT USAGE ON SCHEMA {dotted(*names.hash_function[:2])} TO ROLE {role}",
            f"GRANT USAGE ON FUNCTION {dotted(*names.hash_function)}(VARCHAR, VARCHAR) TO ROLE {role}",
            *granted.statements,
            f"GRANT OWNERSHIP ON ROLE {role} TO ROLE {identifier(names.minter_role)} "
            "COPY CURRENT GRANTS",
        ),
    )


def _observer(plan: SetupPlan) -> Section:
    role = identifier(plan.names.observer_role)
    return Section(
        f"Role {plan.names.observer_role}",
        (
            "REFERENCES shows a table's structure and no row. Listing users by name needs nothing. The two",
            "database roles show who signed in and what was run, for `hoop audit reconcile`. They show the",
            "texts of all statements of the account, too: without reconciling, leave them out.",
        ),
        (
            "USE ROLE ACCOUNTADMIN",
            *(f"GRANT DATABASE ROLE SNOWFLAKE.{r} TO ROLE {role}" for r in HISTORY_ROLES),
            "USE ROLE SECURITYADMIN",
            *observer_grants(plan.names.observer_role, plan.readers),
            f"GRANT OWNERSHIP ON ROLE {role} TO ROLE {identifier(plan.names.minter_role)} "
            "COPY CURRENT GRANTS",
        ),
    )


HISTORY_ROLES = ("GOVERNANCE_VIEWER", "SECURITY_VIEWER")
"""QUERY_HISTORY and LOGIN_HISTORY. https://docs.snowflake.com/en/sql-reference/snowflake-db-roles"""
MINTED_NAMES = "(V_TOKEN_)?HOOP_[0-9A-F]{6}_[A-Z0-9_]+"
"""The names of minted users: an installation's number, then the user's. Without quotes, so that no name
that fits can end the quotes around it."""


def _ending(plan: SetupPlan) -> Section:
    """https://docs.snowflake.com/en/developer-guide/stored-procedure/stored-procedures-rights"""
    names = plan.names
    database, schema, _ = names.hash_function
    minter, observer = identifier(names.minter_role), identifier(names.observer_role)
    procedure = names.governed(END_PROCEDURE)
    return Section(
        "A procedure that ends minted users, and no others",
        (
            "For users that the minter lost: it died in the middle, or was restored from a backup. The",
            "procedure runs with the rights of its owner, who owns the minted users, and takes their names",
            "only. So Hoop's observer can end such a user without the right to make or drop any other.",
        ),
        (
            "USE ROLE SECURITYADMIN",
            f"GRANT USAGE ON DATABASE {identifier(database)} TO ROLE {minter}",
            f"GRANT USAGE, CREATE PROCEDURE ON SCHEMA {dotted(database, schema)} TO ROLE {minter}",
            f"GRANT USAGE ON DATABASE {identifier(database)} TO ROLE {observer}",
            f"GRANT USAGE ON SCHEMA {dotted(database, schema)} TO ROLE {observer}",
            f"GRANT USAGE ON WAREHOUSE {identifier(names.warehouse)} TO ROLE {observer}",
            f"USE ROLE {minter}",
            f"CREATE OR REPLACE PROCEDURE {procedure}(USER_NAME VARCHAR)\n"
            "COPY GRANTS\nRETURNS VARCHAR\nLANGUAGE SQL\nEXECUTE AS OWNER\nAS $$\n"
            "BEGIN\n"
            f"  IF (NOT REGEXP_LIKE(USER_NAME, '{MINTED_NAMES}', 'i')) THEN\n"
            "    RETURN 'refused';\n  END IF;\n"
            "  EXECUTE IMMEDIATE 'ALTER USER IF EXISTS \"' || USER_NAME || '\" SET DISABLED = TRUE';\n"
            "  EXECUTE IMMEDIATE 'DROP USER IF EXISTS \"' || USER_NAME || '\"';\n"
            "  RETURN 'ended';\n"
            "END\n$$",
            "USE ROLE SECURITYADMIN",
            f"GRANT USAGE ON PROCEDURE {procedure}(VARCHAR) TO ROLE {observer}",
        ),
    )


def _look(plan: SetupPlan) -> Section:
    names = plan.names
    return Section(
        "Look: who can reach the key, and what Vault may do",
        (
            f"The first must list {names.governance_role} only, the second ACCOUNTADMIN only, the",
            "third CREATE USER on the account and the ownership of what is named above.",
        ),
        (
            "USE ROLE ACCOUNTADMIN",
            f"SHOW GRANTS ON TABLE {names.governed(KEY_TABLE)}",
            f"SHOW GRANTS OF ROLE {identifier(names.governance_role)}",
            f"SHOW GRANTS TO ROLE {identifier(names.minter_role)}",
        ),
    )
