"""Where a job takes its own identity token from. No repr, message or log ever shows the token.

A program gives it, or it is in a variable (for development), in a file (best: a projected token of
Kubernetes, which is replaced while the job runs), printed by a command, or fetched from the identity provider.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

from hoop_core.errors import ConfigError, IdentityError
from hoop_core.identity.client_credentials import ClientCredentials
from hoop_core.identity.refreshing import Fetched, Refreshing

TOKEN_ENV = "HOOP_TOKEN"  # noqa: S105  the variable's name, not a token
TOKEN_FILE_ENV = "HOOP_TOKEN_FILE"  # noqa: S105
TOKEN_COMMAND_ENV = "HOOP_TOKEN_COMMAND"  # noqa: S105
TOKEN_URL_ENV = "HOOP_OIDC_TOKEN_URL"  # noqa: S105
SOURCE_ENVS = (TOKEN_FILE_ENV, TOKEN_ENV, TOKEN_COMMAND_ENV, TOKEN_URL_ENV)
"""Variables of which each names a source, in the order in which they are asked."""
DEFAULT_TOKEN_FILE = Path("/var/run/secrets/hoop/token")

_MAX_BYTES = 64 * 1024
_COMMAND_SECONDS = 30.0
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


@dataclass(frozen=True, slots=True)
class CommandToken:
    """A token that a program prints. It is run without a shell and without standard input."""

    argv: tuple[str, ...]

    def fetch(self) -> Fetched:
        """Run it. Raises IdentityError."""
        name = self.argv[0] if self.argv else ""
        try:
            done = subprocess.run(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # it may hold what nobody should log
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as e:
            raise IdentityError(
                f"The token command {name} could not be run ({type(e).__name__}).",
                "Run it by hand to see why.",
            ) from None
        if done.returncode != 0:
            raise IdentityError(
                f"The token command {name} ended with {done.returncode}.",
                "Run it by hand to see why.",
            )
        if len(done.stdout) > _MAX_BYTES:
            raise IdentityError(f"What the token command {name} prints is too long for a token.")
        text = done.stdout.decode("ascii", "replace")
        return Fetched(_clean(text, f"that the command {name} prints"))


@dataclass(frozen=True, slots=True)
class FetchedToken:
    """A token that has to be fetched: kept, and shared by all who name the same source."""

    source: CommandToken | ClientCredentials

    def token(self) -> str:
        return _clean(_refreshing(self.source).token(), "that was fetched")


@lru_cache(maxsize=32)
def _refreshing(source: CommandToken | ClientCredentials) -> Refreshing:
    return Refreshing(source)


# A forked child must not wait for a lock that a thread of its parent holds.
os.register_at_fork(after_in_child=_refreshing.cache_clear)


def _from_endpoint(given: Mapping[str, str]) -> FetchedToken:
    """HOOP_OIDC_*. Raises ConfigError."""

    def text(name: str) -> str:
        return given.get(f"HOOP_OIDC_{name}", "")

    def path(name: str) -> Path | None:
        return Path(found) if (found := text(name)) else None

    source = ClientCredentials(
        token_url=text("TOKEN_URL"),
        client_id=text("CLIENT_ID"),
        secret=text("CLIENT_SECRET"),
        secret_file=path("CLIENT_SECRET_FILE"),
        private_key_file=path("PRIVATE_KEY_FILE"),
        private_key_id=text("PRIVATE_KEY_ID"),
        certificate_file=path("CERTIFICATE_FILE"),
        certificate_key_file=path("CERTIFICATE_KEY_FILE"),
        scope=text("SCOPE"),
        audience=text("AUDIENCE"),
        ca_file=path("CA_FILE"),
    )
    if not source.client_id:
        raise ConfigError("HOOP_OIDC_CLIENT_ID is not set.", "Name the job's client.")
    source.check()
    return FetchedToken(source)


def _command(text: str) -> FetchedToken:
    """A JSON list of words, or words as a shell would split them. Raises ConfigError."""
    try:
        words = json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
        if not words or not all(isinstance(w, str) and w for w in words):
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{TOKEN_COMMAND_ENV} is no command.",
            'Write it as a JSON list: ["/usr/bin/get-token", "--audience", "hoop"].',
        ) from None
    return FetchedToken(CommandToken(tuple(words)))


def token_source(
    token: str | None = None, *, env: str | None = None, file: str | Path | None = None
) -> TokenSource:
    """The source that was named; without any, $HOOP_TOKEN_FILE, $HOOP_TOKEN, $HOOP_TOKEN_COMMAND,
    $HOOP_OIDC_TOKEN_URL (client credentials), the default file.

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
    if command := os.environ.get(TOKEN_COMMAND_ENV):
        return _command(command)
    if os.environ.get(TOKEN_URL_ENV):
        return _from_endpoint(os.environ)
    if DEFAULT_TOKEN_FILE.is_file():
        return FileToken(DEFAULT_TOKEN_FILE)
    raise IdentityError(
        "There is no identity token.",
        f"Set {TOKEN_FILE_ENV} (best: a projected token file), {TOKEN_COMMAND_ENV}, {TOKEN_URL_ENV} or "
        f"{TOKEN_ENV}, or name one of token, token_env, token_file.",
    )
