"""What a verified token, assertion or browser sign-in comes to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from hoop_core.model import Identity, Json


@dataclass(frozen=True, slots=True)
class Use:
    """The one use of something that may be used once. `digest` names it, `until` ends the need to remember."""

    digest: str
    until: datetime

    @classmethod
    def of(cls, issuer: str, identifier: str, expires: datetime, leeway_seconds: int) -> Use:
        """For what `issuer` calls `identifier`, remembered as long as it could still be accepted."""
        named = f"{len(issuer)}:{issuer}{identifier}".encode()
        return cls(
            hashlib.sha256(named).hexdigest(), expires + timedelta(seconds=leeway_seconds + 60)
        )

    def by(self, request: str) -> str:
        """A digest for this use by one request: its retry is no second use."""
        return hashlib.sha256(f"{self.digest}#{request}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Proof:
    """Who calls. `use`: this proof counts once, and the caller of the verifier sees to it."""

    identity: Identity
    use: Use | None = None


def identity_as_json(identity: Identity) -> Json:
    """All of it, for a place that only Hoop reads."""
    ends = identity.expires_at
    return {
        "issuer": identity.issuer,
        "subject": identity.subject,
        "name": identity.name,
        "groups": list(identity.groups),
        "method": identity.method,
        "token_digest": identity.token_digest,
        "expires_at": ends.isoformat() if ends else None,
        "claims": {k: v if isinstance(v, str) else list(v) for k, v in identity.claims.items()},
        "actors": list(identity.actors),
    }


def identity_from_json(given: Json) -> Identity:
    """What `identity_as_json` made of an identity, as it was."""
    ends = given["expires_at"]
    return Identity(
        issuer=given["issuer"],
        subject=given["subject"],
        name=given["name"],
        groups=tuple(given["groups"]),
        method=given["method"],
        token_digest=given["token_digest"],
        expires_at=datetime.fromisoformat(ends) if ends else None,
        claims={k: v if isinstance(v, str) else tuple(v) for k, v in given["claims"].items()},
        actors=tuple(given["actors"]),
    )
