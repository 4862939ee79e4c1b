"""The SHOW and DESCRIBE results about the account, with the columns that Snowflake documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from hoop_core.devstack.emulator.account_statements import Show, ShowGrants
from hoop_core.devstack.emulator.accounts import (
    ACCOUNT,
    Account,
    Kind,
    Securable,
    User,
)
from hoop_core.devstack.emulator.errors import no_such_object
from hoop_core.devstack.emulator.results import Table, text_table
from hoop_core.devstack.emulator.sessions import DEFAULTS, Session
from hoop_core.devstack.emulator.user_keys import fingerprint

USER_COLUMNS = (
    "name",
    "created_on",
    "login_name",
    "display_name",
    "first_name",
    "last_name",
    "email",
    "mins_to_unlock",
    "days_to_expiry",
    "comment",
    "disabled",
    "must_change_password",
    "snowflake_lock",
    "default_warehouse",
    "default_namespace",
    "default_role",
    "default_secondary_roles",
    "ext_authn_duo",
    "ext_authn_uid",
    "mins_to_bypass_mfa",
    "owner",
    "last_success_login",
    "expires_at_time",
    "locked_until_time",
    "has_password",
    "has_rsa_public_key",
    "type",
    "has_mfa",
)
_TERSE_USER_COLUMNS = (
    "name",
    "created_on",
    "display_name",
    "first_name",
    "last_name",
    "email",
    "comment",
    "has_password",
    "has_rsa_public_key",
    "type",
    "has_mfa",
)
_MOMENTS = ("created_on", "last_success_login", "expires_at_time", "locked_until_time")


def like(pattern: str) -> Callable[[str], bool]:
    """SHOW … LIKE: % and _ are wildcards, a backslash takes their meaning, case is ignored."""
    parts, escaped = [], False
    for c in pattern:
        if escaped or c not in "%_\\":
            parts.append(re.escape(c))
            escaped = False
        elif c == "\\":
            escaped = True
        else:
            parts.append(".*" if c == "%" else ".")
    compiled = re.compile("".join(parts), re.IGNORECASE | re.DOTALL)
    return lambda name: compiled.fullmatch(name) is not None


def selected(show: Show, names: Iterable[str]) -> list[str]:
    """The names that a SHOW lists, in its order."""
    chosen = sorted(names)
    if show.like is not None:
        matches = like(show.like)
        chosen = [n for n in chosen if matches(n)]
    if show.starts_with is not None:
        chosen = [n for n in chosen if n.startswith(show.starts_with)]
    if show.after is not None:
        chosen = [n for n in chosen if n > show.after]
    return chosen if show.limit is None else chosen[: show.limit]


def _flag(value: bool) -> str:
    return "true" if value else "false"


def days_left(user: User) -> float | None:
    if user.expires_at is None:
        return None
    return (user.expires_at - datetime.now(UTC)).total_seconds() / 86400


def user_facts(user: User) -> dict[str, Any]:
    left = days_left(user)
    p = user.properties
    return {
        "name": user.name,
        "created_on": user.created_on,
        "login_name": user.login_name,
        "display_name": p.get("DISPLAY_NAME", user.name),
        "first_name": p.get("FIRST_NAME"),
        "last_name": p.get("LAST_NAME"),
        "email": p.get("EMAIL"),
        "days_to_expiry": None if left is None else f"{left:.6f}",
        "comment": p.get("COMMENT"),
        "disabled": _flag(user.disabled),
        "must_change_password": _flag(user.must_change_password),
        "snowflake_lock": "false",
        "default_warehouse": p.get("DEFAULT_WAREHOUSE"),
        "default_namespace": p.get("DEFAULT_NAMESPACE"),
        "default_role": p.get("DEFAULT_ROLE"),
        "default_secondary_roles": '["ALL"]' if user.secondary_roles else "[]",
        "ext_authn_duo": "false",
        "owner": user.owner,
        "last_success_login": user.last_success_login,
        "expires_at_time": user.expires_at,
        "has_password": _flag(user.password is not None),
        "has_rsa_public_key": _flag(bool(user.public_keys)),
        "type": user.type,
        "has_mfa": "false",
    }


def show_users(show: Show, account: Account, session: Session, roles: frozenset[str]) -> Table:
    """Everybody sees all names; the rest only with OWNERSHIP of the user, CREATE USER or
    MANAGE GRANTS, and of oneself (behaviour change 2023_06, bcr-975)."""
    columns = _TERSE_USER_COLUMNS if show.terse else USER_COLUMNS
    rows: list[list[Any]] = []
    with account.lock:
        wide = account.holds(roles, ACCOUNT, "CREATE USER", "MANAGE GRANTS")
        for name in selected(show, account.users):
            user = account.users[name]
            full = wide or user.owner in roles or user is session.user
            facts = user_facts(user) if full else {"name": name}
            rows.append([facts.get(c) for c in columns])
    return text_table(columns, rows, [m for m in _MOMENTS if m in columns])


def describe_user(name: str, account: Account, session: Session, roles: frozenset[str]) -> Table:
    with account.lock:
        user = account.users.get(name)
        wide = account.holds(roles, ACCOUNT, "MANAGE GRANTS")
        if user is None or not (wide or user.owner in roles or user is session.user):
            raise no_such_object("User", name)
        facts = {k.upper(): v for k, v in user_facts(user).items()}
        for number in ("", "_2"):
            key = user.public_keys.get(f"RSA_PUBLIC_KEY{number}")
            facts[f"RSA_PUBLIC_KEY{number}_FP"] = fingerprint(key) if key else None
        rows = [
            [k, "null" if v is None else str(v), "null", ""]
            for k, v in facts.items()
            if not k.startswith("HAS_") and k not in ("CREATED_ON", "OWNER")
        ]
        facts_with_password = "********" if user.password else "null"
    rows.append(["PASSWORD", facts_with_password, "null", "Password of the user"])
    return text_table(["property", "value", "default", "description"], rows)


def show_roles(show: Show, account: Account, session: Session, roles: frozenset[str]) -> Table:
    columns = [
        "created_on",
        "name",
        "is_default",
        "is_current",
        "is_inherited",
        "assigned_to_users",
        "granted_to_roles",
        "granted_roles",
        "owner",
        "comment",
    ]
    rows = []
    with account.lock:
        mine = account.granted_to(session.user)
        for name in selected(show, account.roles):
            role = account.roles[name]
            rows.append(
                [
                    role.created_on,
                    name,
                    "Y" if session.user.properties.get("DEFAULT_ROLE") == name else "N",
                    "Y" if session.role == name else "N",
                    "Y" if name in mine and name not in session.user.roles else "N",
                    str(sum(name in u.roles for u in account.users.values())),
                    str(sum(name in r.members for r in account.roles.values())),
                    str(len(role.members)),
                    role.owner,
                    role.comment,
                ]
            )
    return text_table(columns, rows, ["created_on"])


def show_warehouses(show: Show, account: Account, session: Session, roles: frozenset[str]) -> Table:
    columns = ["name", "state", "type", "size", "is_current", "created_on", "owner", "comment"]
    rows = []
    with account.lock:
        for name in selected(show, account.warehouses):
            on = Securable(Kind.WAREHOUSE, (name,))
            if not account.holds(roles, on):
                continue
            w = account.warehouses[name]
            current = "Y" if session.warehouse == name else "N"
            owner = account.owners.get(on, "")
            row = [name, "STARTED", "STANDARD", w.size, current, w.created_on, owner, w.comment]
            rows.append(row)
    return text_table(columns, rows, ["created_on"])


def show_parameters(show: Show, session: Session, user: User | None) -> Table:
    rows = []
    for name in selected(show, DEFAULTS):
        default = DEFAULTS[name]
        if show.scope == "ACCOUNT":
            value, level = default, ""
        elif show.scope == "USER":
            levels = user.parameters if user else {}
            value, level = levels.get(name, default), "USER" if name in levels else ""
        else:
            value = session.parameter(name)
            level = "SESSION" if name in session.parameters else ""
        kind = {bool: "BOOLEAN", int: "NUMBER"}.get(type(default), "STRING")
        rows.append([name, _plain(value), _plain(default), level, "", kind])
    return text_table(["key", "value", "default", "level", "description", "type"], rows)


def _plain(value: Any) -> str:
    return _flag(value) if isinstance(value, bool) else str(value)


def show_grants(
    show: ShowGrants, account: Account, session: Session, roles: frozenset[str]
) -> Table:
    with account.lock:
        if show.direction == "of":
            return _grants_of(show.name[0], account)
        if show.kind is Kind.USER and show.direction == "to":
            return _grants_to_user(show, account, session, roles)
        if show.direction == "to":
            return _grants_to_role(show.name[0], account)
        return _grants_on(Securable(show.kind, show.name), account, roles)


def _grants_of(role: str, account: Account) -> Table:
    if role not in account.roles:
        raise no_such_object("Role", role)
    rows: list[Sequence[Any]] = [
        [None, role, "USER", u.name, u.roles[role]]
        for u in account.users.values()
        if role in u.roles
    ]
    rows += [
        [None, role, "ROLE", r.name, r.members[role]]
        for r in account.roles.values()
        if role in r.members
    ]
    columns = ["created_on", "role", "granted_to", "grantee_name", "granted_by"]
    return text_table(columns, rows, ["created_on"])


def _grants_to_user(
    show: ShowGrants, account: Account, session: Session, roles: frozenset[str]
) -> Table:
    name = show.name[0] if show.name else session.user.name
    user = account.users.get(name)
    wide = account.holds(roles, ACCOUNT, "MANAGE GRANTS")
    if user is None or not (wide or user.owner in roles or user is session.user):
        raise no_such_object("User", name)
    rows = [[None, r, "USER", name, by] for r, by in sorted(user.roles.items())]
    columns = ["created_on", "role", "granted_to", "grantee_name", "granted_by"]
    return text_table(columns, rows, ["created_on"])


_GRANT_COLUMNS = (
    "created_on",
    "privilege",
    "granted_on",
    "name",
    "granted_to",
    "grantee_name",
    "grant_option",
    "granted_by",
)


def _grants_to_role(role: str, account: Account) -> Table:
    found = account.roles.get(role)
    if found is None:
        raise no_such_object("Role", role)
    rows: list[list[Any]] = [
        [
            g.created_on,
            g.privilege,
            g.on.kind.value,
            str(g.on) if g.on.name else account.name,
            "ROLE",
            role,
            _flag(g.grant_option),
            g.granted_by,
        ]
        for g in account.grants()
        if g.role == role
    ]
    rows += [
        [None, "OWNERSHIP", on.kind.value, str(on), "ROLE", role, "true", role]
        for on, owner in account.owners.items()
        if owner == role
    ]
    rows += [
        [None, "USAGE", "ROLE", member, "ROLE", role, "false", by]
        for member, by in found.members.items()
    ]
    rows.sort(key=lambda r: (r[2], r[3], r[1]))
    return text_table(_GRANT_COLUMNS, rows, ["created_on"])


def _grants_on(on: Securable, account: Account, roles: frozenset[str]) -> Table:
    known = on == ACCOUNT or account.exists(on)
    if not known or not (
        account.holds(roles, on) or account.holds(roles, ACCOUNT, "MANAGE GRANTS")
    ):
        raise no_such_object(on.kind.value.title(), str(on))
    rows: list[list[Any]] = [
        [
            g.created_on,
            g.privilege,
            on.kind.value,
            str(on) if on.name else account.name,
            "ROLE",
            g.role,
            _flag(g.grant_option),
            g.granted_by,
        ]
        for g in account.grants_on(on)
    ]
    if owner := account.owners.get(on):
        rows.append([None, "OWNERSHIP", on.kind.value, str(on), "ROLE", owner, "true", owner])
    rows.sort(key=lambda r: (r[1], r[5]))
    return text_table(_GRANT_COLUMNS, rows, ["created_on"])
