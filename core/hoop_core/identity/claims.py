"""From proven claims to an Identity: whom a token speaks of, for whom it was made, and how long it counts.

OpenID Connect Core 1.0 section 3.1.3.7, RFC 7519 section 4.1, RFC 8693 section 4.1 (`act`), RFC 9068.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeGuard

from hoop_core.config import IssuerSettings, SamlSettings
from hoop_core.errors import IdentityError
from hoop_core.identity.jose import GET_NEW
from hoop_core.model import Identity, identity_key

EXPIRED = 390318
"""Snowflake's code for an OAuth token that has expired: drivers that can, fetch a new one."""
_LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_MOST_GROUPS, _MOST_ACTORS = 2000, 10
_ON_THE_WAY = 30
"""Seconds between a sign-in at the provider and its token here."""
_LONGEST_SUBJECT, _LONGEST_NAME = 255, 256
_MOST_VALUES, _LONGEST_VALUE = 100, 256


def identity_of(
    claims: Mapping[str, Any], settings: IssuerSettings, *, token_digest: str, audience: str = ""
) -> Identity:
    """Who is proven by these claims. `audience` takes the place of the settings' own.

    Raises IdentityError, with Snowflake's errno 390318 where the token has only become too old.
    """
    expires = check_times(claims, settings)
    if claims.get("iss") != settings.issuer:
        raise IdentityError("The token's issuer is not trusted here.", GET_NEW)
    check_audience(claims, settings, audience or settings.audience)
    subject = at(claims, settings.subject_claim)
    if not is_name(subject, _LONGEST_SUBJECT):
        raise IdentityError(f"The token names no subject ({settings.subject_claim}).", GET_NEW)
    return Identity(
        issuer=settings.issuer,
        subject=subject,
        name=shown_name(at(claims, settings.name_claim), subject),
        groups=groups_named(_groups(claims, settings), settings),
        method="oidc",
        token_digest=token_digest,
        expires_at=datetime.fromtimestamp(expires, UTC),
        claims=further({name: at(claims, name) for name in settings.claims}),
        actors=_actors(claims, settings.issuer),
    )


def check_times(claims: Mapping[str, Any], settings: IssuerSettings) -> float:
    """When the token ends (POSIX seconds). Raises IdentityError."""
    now, leeway = time.time(), settings.leeway_seconds
    expires = _seconds(claims, "exp")
    if expires is None:
        raise IdentityError("The token never expires (no exp).", "Use a token with an expiry.")
    if expires + leeway < now:
        raise IdentityError("The token has expired.", GET_NEW, errno=EXPIRED)
    for claim in ("nbf", "iat"):
        value = _seconds(claims, claim)
        if value is not None and value - leeway > now:
            raise IdentityError(
                f"The token is not valid yet ({claim} is in the future).",
                "Check the clocks of Hoop and of the identity provider.",
            )
    if settings.max_age_seconds is not None:
        issued = _seconds(claims, "iat")
        if issued is None:
            raise IdentityError("The token does not say when it was issued (no iat).", GET_NEW)
        if issued + settings.max_age_seconds + leeway < now:
            raise IdentityError(
                f"The token was issued more than {settings.max_age_seconds} seconds ago.",
                GET_NEW,
                errno=EXPIRED,
            )
    return expires


def check_asked_lately(claims: Mapping[str, Any], settings: IssuerSettings, max_age: int) -> None:
    """The person was asked who they are at most `max_age` seconds ago. Raises IdentityError."""
    asked = _seconds(claims, "auth_time")
    if asked is None:
        raise IdentityError(
            "The identity provider does not say when you last proved who you are (auth_time).",
            "Have it send auth_time when max_age is asked for, or unset `pages.answer_max_age_seconds`.",
        )
    # what is asked anew takes a moment: typing, and the way back
    if asked + max_age + settings.leeway_seconds + _ON_THE_WAY < time.time():
        raise IdentityError(
            "You proved who you are too long ago for an answer.",
            "Sign in at the identity provider once more.",
        )


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LATEST:
        raise IdentityError(f"The token's claim {name} is not a time.", GET_NEW)
    return float(value)


def check_audience(claims: Mapping[str, Any], settings: IssuerSettings, wanted: str) -> None:
    """The token is for Hoop, and was given to a client that may bring it. Raises IdentityError."""
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if wanted not in audiences:
        raise IdentityError(
            "The token was made for another audience.",
            f"Ask for a token with the audience {wanted!r}.",
        )
    # Access tokens of RFC 9068 say client_id where ID tokens say azp.
    party = claims.get("azp", claims.get("client_id"))
    if len(audiences) > 1 and not isinstance(party, str):
        raise IdentityError(
            "The token has several audiences and does not say which client it was given to (azp).",
            f"Ask for a token with the audience {wanted!r} alone.",
        )
    if settings.authorized_parties and party not in settings.authorized_parties:
        raise IdentityError(
            "The token was given to a client that may not bring it (azp).",
            "Use a client of `identity.authorized_parties`.",
        )


def at(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name. A claim of that very name comes first; else dots lead into objects."""
    if name in claims:
        return claims[name]
    if "://" in name:
        return None
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def is_name(value: object, longest: int = _LONGEST_NAME) -> TypeGuard[str]:
    """A text that can name somebody: not empty, not too long, nothing in it that cannot be seen."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and len(value) <= longest
        # control and format characters, strange blanks: two names must not look the same
        and value.isprintable()
    )


def shown_name(value: object, subject: str) -> str:
    return value if is_name(value) else subject


def _groups(claims: Mapping[str, Any], settings: IssuerSettings) -> list[Any]:
    """The issuer's own names. Raises IdentityError where they were left out for being too many."""
    found = at(claims, settings.groups_claim)
    elsewhere = claims.get("_claim_names")
    if found is None and isinstance(elsewhere, dict) and settings.groups_claim in elsewhere:
        # OpenID Connect Core section 5.6.2; Entra ID does so from 200 groups on. Without them rules that
        # deny would not fire.
        raise IdentityError(
            "The token does not hold the caller's groups: there are too many of them.",
            "Have the identity provider put only groups assigned to the application into the token.",
        )
    if found is None:
        return []
    if isinstance(found, str):
        separator = settings.groups_separator
        return [g for g in found.split(separator) if g] if separator else [found]
    if not isinstance(found, list):
        raise IdentityError(f"The token's claim {settings.groups_claim} is not a list of names.")
    return found


def groups_named(given: Sequence[Any], settings: IssuerSettings | SamlSettings) -> tuple[str, ...]:
    """The issuer's groups as the policy knows them. Raises IdentityError for what is no name."""
    if len(given) > _MOST_GROUPS or not all(is_name(g) for g in given):
        where = getattr(settings, "groups_claim", "") or getattr(settings, "groups_attribute", "")
        raise IdentityError(f"What the caller's {where} holds is not a list of names.")
    names = settings.group_names
    chosen = [names[g] for g in given if g in names] if names else list(given)
    return tuple(sorted({settings.group_prefix + g for g in chosen}))


def _actors(claims: Mapping[str, Any], issuer: str) -> tuple[str, ...]:
    """Who acts for the subject, the one who does it now first (RFC 8693 section 4.1); as `Identity.key`.

    A chain that cannot be read is refused: it says that somebody else is calling.
    """
    found: list[str] = []
    link = claims.get("act")
    while link is not None:
        if not isinstance(link, dict) or len(found) == _MOST_ACTORS:
            raise IdentityError("The token's chain of actors (act) cannot be read.", GET_NEW)
        subject, said = link.get("sub"), link.get("iss", issuer)
        if not is_name(subject, _LONGEST_SUBJECT) or not is_name(said, 700) or "#" in said:
            raise IdentityError("The token names an actor (act) without a subject.", GET_NEW)
        found.append(identity_key(said, subject))
        link = link.get("act")
    return tuple(found)


def further(found: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    """The claims that the settings name. What is of another shape counts as missing: whoever asks for it is
    refused then.
    """
    kept: dict[str, str | tuple[str, ...]] = {}
    for name, value in found.items():
        if _usable(value):
            kept[name] = value
        elif (
            isinstance(value, list) and 0 < len(value) <= _MOST_VALUES and all(map(_usable, value))
        ):
            kept[name] = tuple(sorted(set(value)))
    return kept


def _usable(value: object) -> bool:
    return (
        isinstance(value, str)
        and bool(value.strip())
        and len(value) <= _LONGEST_VALUE
        and "\x00" not in value
    )
