"""Templates, the headers that every page has, and the few files that pages need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from hoop_core.web.pages.plain import breakable, marked, shortened

HEADERS: Mapping[str, str] = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the pages under a name that changes with it."""

    path: str
    kind: str
    body: bytes


def _assets() -> dict[str, Asset]:
    found: dict[str, Asset] = {}
    for file in resources.files("hoop_core.web.pages").joinpath("assets").iterdir():
        stem, _, ending = file.name.partition(".")
        if ending in _KINDS:
            body = file.read_bytes()
            path = f"/assets/{stem}.{hashlib.sha256(body).hexdigest()[:12]}.{ending}"
            found[file.name] = Asset(path, _KINDS[ending], body)
    return found


class Rendering:
    """Everything that pages look like. Templates escape; strangers' texts go through `plain` besides."""

    def __init__(self) -> None:
        self._assets = _assets()
        self._by_path = {a.path: a for a in self._assets.values()}
        self._templates = Environment(
            loader=PackageLoader("hoop_core.web.pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        filters: dict[str, Callable[..., Any]] = {
            "plain": plain,
            "brief": brief,
            "breakable": broken,
            "moment": moment,
            "distance": distance,
            "ago": ago,
        }
        self._templates.filters |= filters
        self._templates.globals["asset"] = {n: a.path for n, a in self._assets.items()}

    def page(self, name: str, status: int = 200, **values: Any) -> Response:
        text = self._templates.get_template(name).render(now=datetime.now(UTC), **values)
        # hostile texts are told by their code points; what is left can be written in UTF-8
        return HTMLResponse(text.encode("utf-8", "backslashreplace"), status, headers=dict(HEADERS))

    def message(
        self,
        title: str,
        message: str,
        hint: str = "",
        *,
        status: int = 200,
        visitor: object = None,
        back: tuple[str, str] | None = None,
    ) -> Response:
        """A page that says one thing. `back`: where to go on, and what that is called."""
        return self.page(
            "message.html",
            status,
            title=title,
            message=message,
            hint=hint,
            back=back,
            visitor=visitor,
            at="",
        )

    async def asset(self, request: Request) -> Response:
        found = self._by_path.get(request.url.path)
        if found is None:
            return PlainTextResponse("There is no such file.", 404, headers=dict(HEADERS))
        headers = {**HEADERS, "cache-control": _FOREVER}
        return Response(found.body, media_type=found.kind, headers=headers)


def onwards(to: str) -> Response:
    """`to` is Hoop's own page, or a provider's address that the gateway has made."""
    return RedirectResponse(to, 303, headers=dict(HEADERS))


def plain(text: object) -> Markup:
    return marked(str(text))


def brief(text: object, most: int = 60) -> Markup:
    return marked(shortened(str(text), most))


def broken(text: object, most: int = 60) -> Markup:
    return breakable(shortened(str(text), most))


def moment(at: datetime | str | None) -> Markup:
    """A time, in UTC; browsers with scripts add the reader's own."""
    if at is None:
        return Markup("")
    when = datetime.fromisoformat(at) if isinstance(at, str) else at
    when = when.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        when.isoformat(timespec="seconds"), when.strftime("%Y-%m-%d %H:%M UTC")
    )


def distance(span: timedelta) -> str:
    """A span as people say it: the two largest units."""
    seconds = max(int(span.total_seconds()), 0)
    parts: list[str] = []
    for name, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "less than a minute"


def ago(span: timedelta) -> str:
    return "just now" if span < timedelta(minutes=1) else f"{distance(span)} ago"
