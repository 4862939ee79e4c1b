"""Signed webhooks by the Standard Webhooks specification, version 1.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import time

import httpx

from hoop_core import __version__
from hoop_core.config.notifications import NotificationSettings
from hoop_core.errors import ConfigError
from hoop_core.identity.fetch import check_url
from hoop_core.notifications.channels import NotSent, address, secret
from hoop_core.notifications.messages import Message

_PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64
_AGAIN = frozenset({408, 409, 425, 429})
"""Of the 4xx, those that another try may change."""


class Webhook:
    """One receiver. Redirects are not followed: messages go where the settings say, nowhere else."""

    def __init__(
        self, settings: NotificationSettings, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """Raises ConfigError for an address or a secret that cannot be used."""
        self.settings, self._transport = settings, transport
        # They report whole addresses at INFO, and an address may be a secret.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._address()
        self._secrets()

    def _address(self) -> str:
        return check_url(address(self.settings), f"The address of the channel {self.settings.name}")

    def _secrets(self) -> list[bytes]:
        """Read anew for each message: one is replaced by giving the new one beside it for a while."""
        what = f"The signing secret of the channel {self.settings.name}"
        given = secret(self.settings.secrets_file, self.settings.secrets_env, what)
        return [_key(text, what) for text in given.split()]

    async def send(self, message: Message) -> None:
        try:
            url, keys = self._address(), self._secrets()
        except ConfigError as e:
            raise NotSent(e.message) from None
        headers = {
            "content-type": "application/json",
            "user-agent": f"hoop/{__version__}",
            **signed(message.id, int(time.time()), message.payload, keys),
        }
        seconds = self.settings.timeout_seconds
        try:
            async with (
                asyncio.timeout(seconds),
                self._client(seconds) as client,
                # What is answered beyond the status is not read.
                client.stream("POST", url, content=message.payload, headers=headers) as answer,
            ):
                status = answer.status_code
        except TimeoutError:
            raise NotSent("no answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
            raise NotSent(type(e).__name__) from None
        if not 200 <= status < 300:
            for_good = 300 <= status < 500 and status not in _AGAIN
            raise NotSent(f"HTTP {status}", for_good=for_good)

    def _client(self, seconds: float) -> httpx.AsyncClient:
        """Nothing of the surroundings: no proxy and no .netrc of whoever started the process."""
        if self._transport is not None:
            return httpx.AsyncClient(transport=self._transport, trust_env=False)
        return httpx.AsyncClient(timeout=seconds, follow_redirects=False, trust_env=False)


def signed(identifier: str, timestamp: int, payload: bytes, keys: list[bytes]) -> dict[str, str]:
    """The three headers; one signature for each key, so that receivers may know the old or the new one."""
    content = f"{identifier}.{timestamp}.".encode() + payload
    signatures = (hmac.new(k, content, hashlib.sha256).digest() for k in keys)
    return {
        "webhook-id": identifier,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(s).decode()}" for s in signatures),
    }


def _key(text: str, what: str) -> bytes:
    hint = "It is whsec_ and the base64 of 24 to 64 random bytes."
    if not text.startswith(_PREFIX):
        raise ConfigError(f"{what} does not begin with {_PREFIX}.", hint)
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"{what} is not base64.", hint) from None
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise ConfigError(f"{what} is too short or too long.", hint)
    return key
