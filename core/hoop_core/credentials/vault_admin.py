"""Reads and writes Vault as its administrator, for `hoop vault setup`: with a token that is given for it."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import hvac
import requests
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultError

from hoop_core.credentials.vault_plan import Difference, Wanted, difference
from hoop_core.errors import ConfigError, Refused, VaultUnavailable

_SECONDS = 30


class VaultAdmin:
    """Raises VaultUnavailable, ConfigError for what Vault refuses to take, and Refused without the right."""

    def __init__(self, address: str, token: str) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._client = hvac.Client(
            url=address, token=token, timeout=_SECONDS, session=self._session, allow_redirects=False
        )

    def compare(self, wanted: Iterable[Wanted]) -> list[Difference]:
        """What there is beside what there should be. Changes nothing."""
        return [self._compared(w) for w in wanted]

    def apply(self, found: Iterable[Difference]) -> None:
        """Write what differs, in order."""
        for each in found:
            if each.any:
                self._write(each.wanted)

    def _compared(self, wanted: Wanted) -> Difference:
        with _Explained(f"read {wanted.path}"):
            if wanted.mount:
                kind, _, path = wanted.path.removeprefix("sys/").partition("/")
                mounts = self._read(f"sys/{kind}") or {}
                there = mounts.get(f"{path}/")
                if there is None:
                    return Difference(wanted, True, {"type": (None, wanted.mount)})
                if there.get("type") != wanted.mount:
                    raise ConfigError(
                        f"{path} is mounted in Vault already, as {there.get('type')!r}.",
                        "Choose another mount in hoop.toml.",
                    )
                return difference(wanted, {})
            return difference(wanted, self._read(wanted.path))

    def _read(self, path: str) -> dict[str, Any] | None:
        try:
            answer = self._client.adapter.get(f"/v1/{path}")
        except InvalidPath:
            return None
        except InvalidRequest as e:
            # A mount that is not there yet has no roles either.
            if "no handler for route" in str(e) or "unsupported path" in str(e):
                return None
            raise
        data = answer.get("data") if isinstance(answer, dict) else None
        return data if isinstance(data, dict) else None

    def _write(self, wanted: Wanted) -> None:
        body: dict[str, Any] = {**wanted.body, **wanted.secret}
        if wanted.mount:
            body = {"type": wanted.mount}
        with _Explained(f"write {wanted.path}"):
            self._client.adapter.post(f"/v1/{wanted.path}", json=body)


def check_keys(found: Iterable[Difference]) -> None:
    """A connection that is there keeps its key; raises ConfigError for a new one without a key."""
    for each in found:
        if "connection_url" in each.wanted.body and each.new and not each.wanted.secret:
            raise ConfigError(
                f"{each.wanted.path} is not in Vault yet, and its private key was not given.",
                "Give --private-key FILE: the key of Vault's own Snowflake user.",
            )


class _Explained:
    """Turns Vault's errors into ours, with what was being done."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _tb: TracebackType | None,
    ) -> None:
        if isinstance(error, Forbidden):
            raise Refused(
                f"Vault does not let this token {self._what}.",
                "Use an administrator's VAULT_TOKEN.",
            ) from None
        if isinstance(error, (InvalidRequest, InvalidPath)):
            detail = "; ".join(map(str, error.errors or []))[:300]
            raise ConfigError(f"Vault refuses to {self._what}: {detail}.") from None
        if isinstance(error, (VaultError, requests.RequestException)):
            raise VaultUnavailable(
                f"Vault cannot be reached to {self._what} ({type(error).__name__}).",
                "Check VAULT_ADDR.",
            ) from None
