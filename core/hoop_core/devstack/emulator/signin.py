"""The login-request: password and key-pair JWT, and nothing else.

https://docs.snowflake.com/en/user-guide/key-pair-auth · developer-guide/sql-api/authenticating
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt

from hoop_core.devstack.emulator.accounts import Account, User
from hoop_core.devstack.emulator.errors import LoginError
from hoop_core.devstack.emulator.governing import accepts_method, admits
from hoop_core.devstack.emulator.networks import BLOCKED, blocked_text
from hoop_core.devstack.emulator.user_keys import fingerprint

_LEEWAY_SECONDS = 30
_MAX_LIFETIME_SECONDS = 3600

WRONG = ("390100", "Incorrect username or password was specified.")
DISABLED = ("390101", "User access disabled. Contact your local system administrator.")
NOT_BY_POLICY = (
    "390202",
    "Authentication attempt rejected by the current authentication policy.",
)
_KEY_FACTOR, _PASSWORD_FACTOR = "RSA_KEYPAIR", "PASSWORD"


@dataclass(frozen=True, slots=True)
class SignedIn:
    user: User
    factor: str


def sign_in(account: Account, data: Mapping[str, Any], address: str) -> SignedIn:
    """Checks the `data` of a login-request from an address. Raises LoginError in Snowflake's codes.

    Policies are looked at once the credential is proven: they tell nothing to who has none.
    """
    login = str(data.get("LOGIN_NAME") or "").upper()
    method = str(data.get("AUTHENTICATOR") or "SNOWFLAKE").upper()
    with account.lock:
        user = next((u for u in account.users.values() if u.login_name == login), None)
    if str(data.get("ACCOUNT_NAME") or "").split(".")[0].upper() != account.name:
        raise LoginError(*WRONG, factor=method)
    if method == "SNOWFLAKE_JWT":
        _check_jwt(account, login, user, str(data.get("TOKEN") or ""))
        factor = _KEY_FACTOR
    elif method == "SNOWFLAKE":
        _check_password(user, str(data.get("PASSWORD") or ""))
        factor = _PASSWORD_FACTOR
    elif method == "OAUTH":
        raise LoginError(
            "390303", "Invalid OAuth access token. ", factor="OAUTH_ACCESS_TOKEN", user=_name(user)
        )
    else:
        text = f"Authenticator '{method[:40]}' is not accepted by this account."
        raise LoginError("390422", text, factor=method[:40], user=_name(user))
    if user is None:
        raise LoginError(*WRONG, factor=factor)
    if user.disabled or user.expired(datetime.now(UTC)):
        raise LoginError(*DISABLED, factor=factor, user=user.name)
    if not admits(account, user, address):
        raise LoginError(BLOCKED, blocked_text(address), factor=factor, user=user.name)
    if not accepts_method(account, user, "KEYPAIR" if factor == _KEY_FACTOR else "PASSWORD"):
        raise LoginError(*NOT_BY_POLICY, factor=factor, user=user.name)
    if user.must_change_password and factor == _PASSWORD_FACTOR:
        text = "Specified password has expired.  Password must be changed using the Snowflake web console."
        raise LoginError("390106", text, factor=factor, user=user.name)
    return SignedIn(user, factor)


def _name(user: User | None) -> str | None:
    return user.name if user else None


def _check_password(user: User | None, password: str) -> None:
    # A SERVICE user cannot have a password; the answer does not tell who is one.
    good = (
        user is not None
        and user.password is not None
        and user.type != "SERVICE"
        and user.password.matches(password)
    )
    if not good:
        raise LoginError(*WRONG, factor=_PASSWORD_FACTOR, user=_name(user))


def _check_jwt(account: Account, login: str, user: User | None, token: str) -> None:
    def refuse() -> LoginError:
        text = f"JWT token is invalid. [{uuid.uuid4()}]"
        return LoginError("390144", text, factor=_KEY_FACTOR, user=_name(user))

    if user is None:
        raise refuse()
    subject = f"{account.name}.{login}"
    for key in user.public_keys.values():
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                issuer=f"{subject}.{fingerprint(key)}",
                subject=subject,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "iss", "sub"], "verify_aud": False},
            )
        except jwt.InvalidTokenError:
            continue
        lifetime = claims["exp"] - claims["iat"]
        if 0 < lifetime <= _MAX_LIFETIME_SECONDS:
            return
    raise refuse()
