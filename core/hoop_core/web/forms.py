"""HTML forms as they come over HTTP: within bounds, each field once."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from hoop_core.http import BadRequest

_MOST_FIELDS = 10


async def read_form(request: Request, limit: int) -> dict[str, str]:
    """The fields of a form of at most `limit` bytes. Raises BadRequest."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadRequest("This is not a form.")
    raw = bytearray()
    try:
        async for piece in request.stream():
            raw += piece
            if len(raw) > limit:
                raise BadRequest("The form is too long.")
        found = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=_MOST_FIELDS,
            errors="strict",
        )
    except ClientDisconnect:
        raise BadRequest("The browser went away in the middle of its form.") from None
    except ValueError:
        raise BadRequest("The form cannot be read.") from None
    if len(dict(found)) != len(found):
        raise BadRequest("The form has the same field twice.")
    return dict(found)
