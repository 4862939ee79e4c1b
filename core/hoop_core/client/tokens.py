"""Where a job takes its own identity token from. No repr, message or log ever shows the token."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from hoop_core.errors import ConfigError, IdentityError

TOKEN_ENV = "HOOP_TOKEN"  # noqa: S105  the variable's name, not a token
TOKEN_FILE_ENV = "HOOP_TOKEN_FILE"  # noqa: S105
DEFAULT_TOKEN_FILE = Path("/var/run/secrets/hoop/token")

_MAX_BYTES = 64 * 1024
_PRINTABLE = re.compile(r"[!-~]+\Z")


@runtime_checkable
class TokenSource(Protocol):
    """Something that yields the caller's OIDC token (a compact JWT, RFC 7519), fresh at each call."""

    def token(self) -> str:
        """The token. Raises IdentityError that says where it was looked for."""


def _clean(text: str, where: str) -> str:
    token = text.strip()
    if not token:
        raise IdentityError(
            f"The identity token {where} is empty.",
            "Give the job a token of its own: an OIDC token with the audience that Hoop expects.",
        )
    if not _PRINTABLE.match(token):
        # A header or a JSON file in place of the token would otherwise travel to the gateway.
        raise IdentityError(
            f"What was found as identity token {where} is not a token.",
            "It must hold the bare token and nothing else.",
        )
    return token


@dataclass(frozen=True, slots=True)
class GivenToken:
    """A token handed over by the program itself."""

    value: str = field(repr=False)

    def token(self) -> str:
        return _clean(self.value, "that was given")


@dataclass(frozen=True, slots=True)
class EnvironmentToken:
    """A token in an environment variable."""

    name: str = TOKEN_ENV

    def token(self) -> str:
        text = os.environ.get(self.name)
        if text is None:
            raise IdentityError(
                f"The environment variable {self.name}, which should hold the identity token, is not set.",
                "Set it, or name a token file.",
            )
        return _clean(text, f"in the environment variable {self.name}")


@dataclass(frozen=True, slots=True)
class FileToken:
    """A token in a file, read again at each use: projected tokens are replaced while a job runs."""

    path: Path

    def token(self) -> str:
        try:
            with self.path.open("rb") as f:
                raw = f.read(_MAX_BYTES + 1)
        except OSError as e:
            raise IdentityError(
                f"The token file {self.path} cannot be read: {e.strerror}.",
                "Mount the job's projected token there, or name another file.",
            ) from None
        if len(raw) > _MAX_BYTES:
            raise IdentityError(f"The token file {self.path} is too large to be a token.")
        return _clean(raw.decode("ascii", "replace"), f"in the file {self.path}")


def token_source(
    token: str | None = None, *, env: str | None = None, file: str | Path | None = None
) -> TokenSource:
    """The source that was named; without any, $HOOP_TOKEN_FILE, $HOOP_TOKEN, the default file.

    Raises ConfigError when more than one was named, IdentityError when none is there.
    """
    named = [n for n, v in (("token", token), ("token_env", env), ("token_file", file)) if v]
    if len(named) > 1:
        raise ConfigError(
            f"{' and '.join(named)} are set together.", "Name one source of the identity token."
        )
    if token:
        return GivenToken(token)
    if env:
        return EnvironmentToken(env)
    if file:
        return FileToken(Path(file))
    if from_env := os.environ.get(TOKEN_FILE_ENV):
        return FileToken(Path(from_env))
    if TOKEN_ENV in os.environ:
        return EnvironmentToken(TOKEN_ENV)
    if DEFAULT_TOKEN_FILE.is_file():
        return FileToken(DEFAULT_TOKEN_FILE)
    raise IdentityError(
        "There is no identity token.",
        f"Set {TOKEN_FILE_ENV} (best: a projected token file) or {TOKEN_ENV}, or name one of token, "
        "token_env, token_file.",
    )
