"""One Airflow's REST API, as Hoop's own user there. Bounded in time and size, no redirects, nothing packed.

https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html (`hitlDetails`, `/auth/token`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from pathlib import Path
from typing import Any

import httpx

from hoop_core.bridges.airflow.values import AirflowSilent, AirflowUnavailable, Place, Row
from hoop_core.config import AirflowSettings
from hoop_core.errors import ConfigError
from hoop_core.http import writable
from hoop_core.identity.fetch import check_url
from hoop_core.model import Json

_MOST_BYTES = 4 << 20
_MOST_TOKEN = 64 * 1024
_AT_ONCE = 8


class AnsweredAlready(Exception):
    """Somebody was faster: the row has an answer."""


class AirflowRemote:
    """Call `close` after use. All methods raise AirflowUnavailable."""

    def __init__(
        self, settings: AirflowSettings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """Raises ConfigError."""
        what = f"airflow.url of {settings.name!r}"
        check_url(settings.url, what, unsafe_plain_http=settings.unsafe_plain_http)
        self._settings, self._transport = settings, transport
        self._base = settings.url.rstrip("/")
        self._http: httpx.AsyncClient | None = None
        self._token: str | None = None
        self._signing_in = asyncio.Lock()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def row(self, place: Place) -> Row | None:
        """What stands there; None: nothing."""
        status, body = await self._call("GET", place.path, None)
        if status == httpx.codes.NOT_FOUND:
            return None
        if status != httpx.codes.OK:
            raise self._unexpected(status, "read a Required Action")
        return Row.of(body)

    async def answer(self, place: Place, option: str, reason: str) -> bool:
        """Let the task go on; False: the row is not there any more. Raises AnsweredAlready."""
        payload = {"chosen_options": [option], "params_input": {"reason": reason}}
        status, _ = await self._call("PATCH", place.path, payload)
        if status == httpx.codes.CONFLICT:
            raise AnsweredAlready
        if status == httpx.codes.NOT_FOUND:
            return False
        if status != httpx.codes.OK:
            raise self._unexpected(status, "answer a Required Action")
        return True

    def is_own(self, user_id: str | None) -> bool:
        """Whether Airflow means Hoop's own user."""
        return user_id is not None and user_id in {self._settings.username, _subject(self._token)}

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def _call(self, method: str, path: str, payload: Json | None) -> tuple[int, Json]:
        token = await self._bearer()
        status, body = await self._send(method, path, payload, token)
        if status == httpx.codes.UNAUTHORIZED and self._settings.token_file is None:
            self._token = None if self._token == token else self._token
            status, body = await self._send(method, path, payload, await self._bearer())
        return status, body

    async def _bearer(self) -> str:
        if self._settings.token_file is not None:
            self._token = await asyncio.to_thread(_read, self._settings.token_file)
            return self._token
        async with self._signing_in:
            if self._token is None:
                self._token = await self._sign_in()
            return self._token

    async def _sign_in(self) -> str:
        if self._settings.password_file is None:
            raise ConfigError(
                f"Hoop has no password for the Airflow {self._settings.name!r}.",
                "Set airflow.password_file.",
            )
        password = await asyncio.to_thread(_read, self._settings.password_file)
        given = {"username": self._settings.username, "password": password}
        status, body = await self._send("POST", "/auth/token", given, None)
        token = body.get("access_token")
        if (
            status not in {httpx.codes.OK, httpx.codes.CREATED}
            or not isinstance(token, str)
            or not 0 < len(token) <= _MOST_TOKEN
            or not token.isascii()
        ):
            raise AirflowUnavailable(
                f"The Airflow {self._settings.name!r} did not let Hoop sign in (HTTP {status}).",
                "Check airflow.username and airflow.password_file.",
            )
        return token

    async def _send(
        self, method: str, path: str, payload: Json | None, token: str | None
    ) -> tuple[int, Json]:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        try:
            async with (
                self._turns,
                asyncio.timeout(self._settings.timeout_seconds),
                self._client().stream(
                    method, self._base + path, headers=headers, json=payload
                ) as answer,
            ):
                raw = await _whole(answer)
                status = answer.status_code
        except TimeoutError:
            raise self._silent("did not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
            raise self._silent(f"cannot be reached ({type(e).__name__})") from None
        try:
            body: Any = json.loads(raw or b"{}")
            writable(body)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            if status < httpx.codes.BAD_REQUEST:
                raise self._silent("answered something that is not JSON")
            body = {}
        return status, body

    def _silent(self, what: str) -> AirflowSilent:
        return AirflowSilent(
            f"The Airflow {self._settings.name!r} {what}.", "Check airflow.url; Hoop looks again."
        )

    def _unexpected(self, status: int, what: str) -> AirflowUnavailable:
        hint = (
            "Give Hoop's user there the permission to read and answer Required Actions of all DAGs."
            if status == httpx.codes.FORBIDDEN
            else "Look at the log of its API server."
        )
        kind = AirflowSilent if status >= httpx.codes.INTERNAL_SERVER_ERROR else AirflowUnavailable
        return kind(
            f"The Airflow {self._settings.name!r} did not let Hoop {what} (HTTP {status}).", hint
        )

    def _client(self) -> httpx.AsyncClient:
        """Nothing of the surroundings: no proxy, .netrc or certificates of whoever started the process."""
        if self._http is None:
            self._http = httpx.AsyncClient(
                transport=self._transport,
                verify=_trust(self._settings.ca_file),
                timeout=self._settings.timeout_seconds,
                follow_redirects=False,
                trust_env=False,
            )
        return self._http


async def _whole(answer: httpx.Response) -> bytes:
    """Raises AirflowUnavailable for what is packed or too long."""
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise AirflowUnavailable("Airflow sent a packed answer.", "Check what stands before it.")
    body = bytearray()
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > _MOST_BYTES:
            raise AirflowUnavailable("Airflow's answer is too long.", "Check airflow.url.")
    return bytes(body)


def _subject(token: str | None) -> str | None:
    """The user id in the token that Airflow gave us. It decides nothing but what we know to be our own."""
    try:
        part = (token or "").split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return str(claims["sub"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def _read(file: Path) -> str:
    """Raises AirflowUnavailable: the file may be there again soon."""
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeError) as e:
        raise AirflowUnavailable(
            f"Hoop's credential for Airflow, {file}, cannot be read ({type(e).__name__}).",
            "Check airflow.password_file and airflow.token_file.",
        ) from None
    if not text or len(text) > _MOST_TOKEN or not text.isprintable():
        raise AirflowUnavailable(
            f"Hoop's credential for Airflow, {file}, is empty or no line of text.",
            "Check airflow.password_file and airflow.token_file.",
        )
    return text


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """Raises ConfigError."""
    try:
        return httpx.create_ssl_context(
            verify=True if ca_file is None else ssl.create_default_context(cafile=str(ca_file)),
            trust_env=False,
        )
    except (OSError, ssl.SSLError) as e:
        raise ConfigError(
            f"The certificate authority {ca_file} cannot be read: {type(e).__name__}.",
            "Correct airflow.ca_file.",
        ) from None
