"""What a request's line and headers must look like, beyond what the parser insists on.

The parser (llhttp, through httptools) refuses bare LF, folded headers, spaces before the colon, and
Content-Length that is repeated, not a number, or beside Transfer-Encoding. What it lets pass and two servers
in a row could read in two ways is refused here. RFC 9112, sections 3, 5 and 6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Headers = list[tuple[bytes, bytes]]

_LONGEST_TARGET = 16 * 1024
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_ONCE = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"transfer-encoding",
        b"x-hoop-chunk",
    }
)
# Some servers take X_Forwarded_For for X-Forwarded-For. Other names with underscores are drivers' own.
_LOOKALIKES = frozenset(
    n.replace(b"-", b"_")
    for n in (
        *_ONCE,
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-snowflake-authorization-token-type",
    )
    if b"-" in n
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is refused before anything looks at what it asks for."""

    status: int
    message: str


def fault_of(target: bytes, version: str, headers: Headers) -> Fault | None:
    """What is wrong with a request's line and headers (names in lower case); None when nothing is."""
    if not target.startswith(b"/") or b"#" in target:
        return Fault(400, "The request's target must be a path.")
    if len(target) > _LONGEST_TARGET:
        return Fault(414, "The request's target is too long.")
    if version not in {"1.0", "1.1"}:
        return Fault(505, "Only HTTP/1.1 and HTTP/1.0 are served.")
    once: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _ONCE:
            if name in once:
                return Fault(400, f"The header {name.decode()} is there twice.")
            once[name] = value
        elif name in _LOOKALIKES:
            return Fault(400, f"The header {name.decode()} is not taken with underscores.")
        elif name == b"upgrade":
            return Fault(400, "Hoop serves no other protocol to upgrade to.")
    host = once.get(b"host")
    if host is None and version == "1.1":
        return Fault(400, "The request names no Host.")
    if host is not None and not _HOST.match(host):
        return Fault(400, "The request's Host is not a host.")
    coding = once.get(b"transfer-encoding")
    if coding is not None and (coding.strip().lower() != b"chunked" or version == "1.0"):
        return Fault(400, "Of transfer codings only chunked is taken, and in HTTP/1.1.")
    return None
