"""Settings that work and are not safe in every house: said once, when the gateway starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from sqlalchemy import make_url

from hoop_core.config import Settings


def advice(settings: Settings) -> Iterator[str]:
    """One sentence for each. Nothing of it is refused."""
    bare = [s for s in settings.identity if not s.group_prefix and not s.group_names]
    bare_saml = [s for s in settings.saml if not s.group_prefix and not s.group_names]
    if len(bare) + len(bare_saml) > 1:
        yield (
            f"{len(bare) + len(bare_saml)} identity providers give groups under the same names: who may name groups at one of "
            "them is in those of the others. Set `group_prefix` or `group_names` for all but one."
        )
    url = make_url(settings.store.url)
    hosts = [url.host, *_told(url.query.get("host")), *_told(url.query.get("hostaddr"))]
    remote = url.get_backend_name() in {"postgres", "postgresql"} and not all(map(_here, hosts))
    if remote and url.query.get("sslmode") != "verify-full":
        yield (
            "The store is on another host, and nothing proves that it is that host. Add "
            "`sslmode=verify-full` (and `sslrootcert`) to store.url."
        )


def _told(given: str | tuple[str, ...] | None) -> list[str]:
    """The hosts that a parameter of the address names (libpq takes several, with commas between them)."""
    return ",".join((given,) if isinstance(given, str) else given or ()).split(",")


def _here(host: str | None) -> bool:
    if not host or host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
