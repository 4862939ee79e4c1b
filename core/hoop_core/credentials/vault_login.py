"""How Hoop comes into Vault: with its own workload identity (`auth/jwt`), for one call at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import hvac
import requests
from hvac.exceptions import (
    Forbidden,
    InternalServerError,
    InvalidPath,
    InvalidRequest,
    VaultError,
)

from hoop_core.config import VaultSettings
from hoop_core.credentials.minting import VAULT_FAULT
from hoop_core.errors import VaultUnavailable

T = TypeVar("T")

NOTHING_RAN = "Nothing was run. Ask the platform team to look at Vault, then try again."


def plain_session() -> requests.Session:
    """No proxy and no .netrc of whoever started the process: credentials pass through here."""
    session = requests.Session()
    session.trust_env = False
    return session


@dataclass(slots=True)
class VaultLogin:
    """Synchronous (hvac): for worker threads."""

    settings: VaultSettings
    session: requests.Session = field(default_factory=plain_session, repr=False)

    def client(self, token: str = "") -> hvac.Client:
        return hvac.Client(
            url=self.settings.address,
            token=token,  # else hvac would pick one up from the environment or the home folder
            timeout=self.settings.timeout_seconds,
            session=self.session,
            allow_redirects=False,
        )

    def login(self) -> tuple[hvac.Client, str]:
        """A fresh client with a short token, and the token's accessor. Each lease hangs on one of its own."""
        client = self.client()
        try:
            token = self.settings.jwt_file.read_text().strip()
        except OSError as e:
            raise VaultUnavailable(
                f"Hoop's workload token {self.settings.jwt_file} cannot be read: {e.strerror}.",
                NOTHING_RAN,
            ) from None
        answer = client.auth.jwt.jwt_login(
            role=self.settings.auth_role, jwt=token, path=self.settings.auth_mount
        )
        return client, str(answer["auth"]["accessor"])

    def guarded(self, call: Callable[[], T], what: str) -> T:
        """What `call` gives. Raises VaultUnavailable for everything that goes wrong with it."""
        try:
            return call()
        except Forbidden:
            raise VaultUnavailable(
                f"Vault does not let Hoop {what}.",
                "Check Vault's policy for Hoop (`hoop vault setup` shows what differs) and the audience of "
                "its workload token.",
            ) from None
        except (InvalidRequest, InvalidPath) as e:
            detail = "; ".join(map(str, e.errors or []))[:200]
            raise VaultUnavailable(f"Vault cannot {what}: {detail}.", NOTHING_RAN) from None
        except InternalServerError:
            raise VaultUnavailable(
                f"Vault failed when it was asked to {what}.", NOTHING_RAN, reason=VAULT_FAULT
            ) from None
        except (VaultError, requests.RequestException) as e:
            raise VaultUnavailable(
                f"Vault cannot be reached to {what} ({type(e).__name__}).", NOTHING_RAN
            ) from None
        except (KeyError, TypeError, ValueError):
            raise VaultUnavailable(
                f"Vault answered in an unknown form when asked to {what}.", NOTHING_RAN
            ) from None
