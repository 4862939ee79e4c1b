"""What people read: the inbox, a request, standing grants, sessions. What they sign is in `answers.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from hoop_core.approvals.approval import Approval, NoSuchApproval
from hoop_core.approvals.book import Wanted
from hoop_core.audit.log import utc_now
from hoop_core.errors import HoopError, Unavailable, where
from hoop_core.guard import Guard
from hoop_core.http import BadRequest, unexpected
from hoop_core.model import Identity
from hoop_core.signin.browser import ARRIVED
from hoop_core.signin.door import TooManyFailures
from hoop_core.signin.refusals import Refusals
from hoop_core.web.pages.answers import Answers
from hoop_core.web.pages.asked import EXCEPTION, STANDING, line_of
from hoop_core.web.pages.doors import Doors
from hoop_core.web.pages.evidence import steps_of
from hoop_core.web.pages.live import ALL, Live
from hoop_core.web.pages.making import TooManyPages, Workshop
from hoop_core.web.pages.people import People, Visitor
from hoop_core.web.pages.rendering import HEADERS, Rendering, onwards
from hoop_core.web.pages.showing import RequestPage
from hoop_core.web.pages.ways import HOME, way_to
from hoop_core.web.reads import Reads, What
from hoop_core.web.sso import SsoPages
from hoop_core.web.visibility import Visibility, is_own, is_own_session

_log = structlog.get_logger(__name__)
_ROWS = 25
_TABS = {
    "waiting": "Waiting for me",
    "mine": "Asked by me",
    "decided": "Decided",
    "all": "All I may see",
    "review": "To review",
}
_STANDING = {EXCEPTION: "Masking exceptions", STANDING: "Standing approvals"}
_ENTRIES = 200
_QUESTIONS = 50
"""Of which a session's page tells the answers; the others have a link."""
Endpoint = Callable[[Request, Visitor], Awaitable[Response]]


class Pages:
    """Server-rendered; each page stands for itself and needs no script."""

    def __init__(
        self,
        guard: Guard,
        *,
        visibility: Visibility,
        people: People,
        requests: RequestPage,
        answers: Answers,
        doors: Doors,
        sso: SsoPages,
        live: Live,
        rendering: Rendering,
        workshop: Workshop,
        reads: Reads,
    ) -> None:
        self._guard, self._visible_to, self._people = guard, visibility, people
        self._requests, self._answers, self._doors, self._sso = requests, answers, doors, sso
        self._live, self.rendering, self._workshop = live, rendering, workshop
        self._reads = reads

    @property
    def refusals(self) -> Refusals:
        """Those of answers, whose counts have to be written now and then."""
        return self._answers.refusals

    def routes(self) -> list[Route]:
        read: list[tuple[str, Endpoint]] = [
            ("/approvals", self.inbox),
            ("/approvals/{id}", self.request),
            ("/approvals/{id}/statement.sql", self.statement),
            ("/standing", self.standing),
            ("/sessions", self.sessions),
            ("/sessions/{id}", self.session),
            ("/live", self.live),
        ]
        open_to_all: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/", self._home),
            ("GET", "/sign-in", self._doors.sign_in),
            ("GET", ARRIVED, self._doors.arrived),
            ("POST", "/sign-out", self._doors.sign_out),
            ("GET", "/signed-out", self._doors.signed_out),
            ("POST", "/approvals/{id}", self._answers.send),
        ]
        return [
            *(
                Route(path, self._page(self._for_visitors(end)), methods=["GET"])
                for path, end in read
            ),
            *(Route(path, self._page(end), methods=[verb]) for verb, path, end in open_to_all),
            Route("/assets/{name}", self.rendering.asset, methods=["GET"]),
            *self._sso.routes(),
        ]

    # ------------------------------------------------------------------ around every page

    def _page(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Every error as a page. What is refused to a stranger is counted and on record."""

        async def call(request: Request) -> Response:
            try:
                return await endpoint(request)
            except HoopError as e:
                if isinstance(e, Unavailable):
                    _log.error("a page was refused", path=request.url.path, why=e.text)
                return await self._refusal(request, e)
            except Exception as e:
                # The browser must get an answer, and the details belong to our own log only.
                _log.error("a page failed inside Hoop", path=request.url.path, where=where(e))
                return await self._refusal(request, unexpected())

        return call

    async def _refusal(self, request: Request, error: HoopError) -> Response:
        title, status = _fault(error)
        return self.rendering.message(title, error.message, error.hint, status=status, back=HOME)

    def _for_visitors(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            by_itself = "x-hoop-live" in request.headers or request.url.path == "/live"
            visitor = await self._people.visitor(request, touch=not by_itself)
            if visitor is not None:
                return await endpoint(request, visitor)
            if by_itself:
                return self.rendering.message("You are signed out", "Sign in again.", status=401)
            return onwards("/sign-in?" + urlencode({"next": way_to(request)}))

        return call

    async def _made(self, visitor: Visitor, work: Callable[[], Response]) -> Response:
        return await self._workshop.make(visitor.identity.key, work)

    async def _home(self, _request: Request) -> Response:
        return onwards("/approvals")

    async def _looked_at(self, approval: Approval, visitor: Visitor) -> None:
        if not is_own(visitor.identity, approval):
            await self._looked(visitor, "approval", approval.id)

    async def _looked(self, visitor: Visitor, what: What, about: str) -> None:
        """Raises StoreUnavailable."""
        await self._reads.looked(visitor.identity, what, about, "pages")

    # ------------------------------------------------------------------ approvals

    async def inbox(self, request: Request, visitor: Visitor) -> Response:
        tab = request.query_params.get("show", "waiting")
        if tab not in _TABS:
            raise BadRequest("There is no such list.", f"One of: {', '.join(_TABS)}.")
        wanted = self._wanted(tab, visitor.identity, _before(request))
        if tab != "mine":
            await self._looked(visitor, "approvals", tab)
        return await self._made(visitor, lambda: self._list(visitor, tab, wanted))

    def _wanted(
        self, tab: str, caller: Identity, before: tuple[datetime, str] | None
    ) -> dict[str, Any]:
        chosen: dict[str, dict[str, Any]] = {
            "waiting": {"undecided_by": caller},
            "mine": {"asked_by": caller},
            "decided": {"decided": True, "seen_by": self._visible_to.seen_by(caller)},
            "all": {"seen_by": self._visible_to.seen_by(caller)},
            "review": {"review_open": True, "seen_by": self._visible_to.seen_by(caller)},
        }
        return {**chosen[tab], "before": before, "limit": _ROWS + 1}

    def _list(self, visitor: Visitor, tab: str, wanted: dict[str, Any]) -> Response:
        desk, now = self._guard.desk, utc_now()
        found = desk.list(Wanted(**wanted))
        shown, older = self._one_page(found, visitor.identity)
        waiting = desk.count(Wanted(undecided_by=visitor.identity))
        reviews = desk.count(
            Wanted(review_open=True, seen_by=self._visible_to.seen_by(visitor.identity))
        )
        return self.rendering.page(
            "inbox.html",
            visitor=visitor,
            at="approvals",
            tab=tab,
            tabs={k: v for k, v in _TABS.items() if k != "review" or reviews or tab == k},
            lines=[line_of(a, now) for a in shown],
            waiting=waiting,
            reviews=reviews,
            older=older and f"/approvals?{urlencode({'show': tab, 'before': older})}",
            first=wanted["before"] is None,
        )

    def _one_page(
        self, found: list[Approval], caller: Identity
    ) -> tuple[list[Approval], str | None]:
        """What fits on a page, and where the next one begins."""
        page = found[:_ROWS]
        last = page[-1] if len(found) > _ROWS else None
        older = f"{last.created_at.isoformat()}~{last.id}" if last else None
        return [a for a in page if self._visible_to.may_see(caller, a)], older

    async def request(self, request: Request, visitor: Visitor) -> Response:
        approval = await self._requests.visible(request.path_params["id"], visitor.identity)
        await self._looked_at(approval, visitor)
        said = request.query_params.get("said", "")
        return await self._requests.show(approval, visitor, said=said)

    async def statement(self, request: Request, visitor: Visitor) -> Response:
        """The exact text that will run, byte for byte; as a file, so that no browser makes anything of it."""
        approval = await self._requests.visible(request.path_params["id"], visitor.identity)
        await self._looked_at(approval, visitor)
        body = approval.body
        wanted = "sql" if request.query_params.get("which") == "sent" else "rewritten"
        text = body.get("template") or body.get(wanted)
        if not isinstance(text, str) or not text:
            raise NoSuchApproval(f"{approval.id} has no such statement.")
        headers = {
            **HEADERS,
            "content-security-policy": "default-src 'none'; sandbox",
            "content-disposition": f'attachment; filename="{approval.id}-{wanted}.sql"',
        }
        raw = text.encode("utf-8", "backslashreplace")
        return Response(raw, media_type="text/plain; charset=utf-8", headers=headers)

    # ------------------------------------------------------------------ standing grants

    async def standing(self, request: Request, visitor: Visitor) -> Response:
        before = _before(request)
        await self._looked(visitor, "approvals", "standing")
        return await self._made(visitor, lambda: self._standing(visitor, before))

    def _standing(self, visitor: Visitor, before: tuple[datetime, str] | None) -> Response:
        seen_by, now = self._visible_to.seen_by(visitor.identity), utc_now()
        wanted = Wanted(standing=True, seen_by=seen_by, before=before, limit=_ROWS + 1)
        shown, older = self._one_page(self._guard.desk.list(wanted), visitor.identity)
        return self.rendering.page(
            "standing.html",
            visitor=visitor,
            at="standing",
            kinds=_STANDING,
            lines=[line_of(a, now) for a in shown],
            outdated={a.id for a in shown if self._requests.outdated(a)},
            older=older and f"/standing?{urlencode({'before': older})}",
        )

    # ------------------------------------------------------------------ sessions

    async def sessions(self, request: Request, visitor: Visitor) -> Response:
        before = _before(request)
        found = await asyncio.to_thread(
            self._visible_to.sessions, visitor.identity, before=before, limit=_ROWS + 1
        )
        if not all(is_own_session(visitor.identity, session) for session in found):
            await self._looked(visitor, "sessions", "all")
        last = found[_ROWS - 1] if len(found) > _ROWS else None
        older = last and urlencode({"before": f"{last['opened_at']}~{last['id']}"})
        return self.rendering.page(
            "sessions.html",
            visitor=visitor,
            at="sessions",
            sessions=found[:_ROWS],
            older=older and f"/sessions?{older}",
        )

    async def session(self, request: Request, visitor: Visitor) -> Response:
        wanted = request.path_params["id"]
        found = await asyncio.to_thread(self._visible_to.sessions, visitor.identity, wanted)
        if not found:
            raise NoSuchApproval(
                f"There is no session {wanted} for you.", "You see your own sessions."
            )
        if not is_own_session(visitor.identity, found[0]):
            await self._looked(visitor, "session", wanted)
        skip = _number(request)
        return await self._made(visitor, lambda: self._session(visitor, found[0], skip))

    def _session(self, visitor: Visitor, session: dict[str, Any], skip: int) -> Response:
        entries, whole = self._visible_to.entries(session["id"])
        part = entries[skip : skip + _ENTRIES]
        steps = steps_of(part, self._answers_to(part, visitor.identity))
        following = skip + len(steps) if len(entries) > skip + len(steps) else None
        return self.rendering.page(
            "session.html",
            visitor=visitor,
            at="sessions",
            session=session,
            steps=steps,
            count=len(entries),
            skip=skip,
            whole=whole,
            following=following and f"/sessions/{session['id']}?skip={following}",
        )

    def _answers_to(self, entries: list[Any], caller: Identity) -> dict[str, Approval]:
        """What became of the questions of a session: answers are given in sessions of others."""
        asked = [e["data"].get("approval") for e in entries if e["kind"] == "approval.requested"]
        found = [self._guard.desk.get(i) for i in asked[:_QUESTIONS] if isinstance(i, str)]
        return {a.id: a for a in found if self._visible_to.may_see(caller, a)}

    # ------------------------------------------------------------------ live

    async def live(self, request: Request, visitor: Visitor) -> Response:
        """Stamps that change with what a page shows; nothing of what it shows."""
        subject = request.query_params.get("approval", ALL)
        if subject != ALL:
            await self._requests.visible(subject, visitor.identity)
        if self._live.full:
            return Response(status_code=204, headers=dict(HEADERS))  # the browser asks no more
        return StreamingResponse(
            self._live.events(subject), media_type="text/event-stream", headers=dict(HEADERS)
        )


def _fault(error: HoopError) -> tuple[str, int]:
    """What a page is called that tells of an error, and its status."""
    match error:
        case NoSuchApproval():
            return "Nothing here", 404
        case TooManyFailures():
            return "Too many failed sign-ins", 429
        case TooManyPages():
            return "Too many pages at once", 429
        case BadRequest():
            return "This request cannot be read", 400
        case Unavailable():
            return "Not available right now", 503
        case _ if error.reason == "INTERNAL":
            return "Something went wrong", 500
    return "Refused", 403


def _before(request: Request) -> tuple[datetime, str] | None:
    """Where the page before this one ended. Raises BadRequest."""
    given = request.query_params.get("before")
    if not given:
        return None
    at, _, identifier = given.partition("~")
    try:
        when = datetime.fromisoformat(at.replace(" ", "+"))
        if when.tzinfo is None:
            raise ValueError
        when = when.astimezone(UTC)  # the edges of the calendar have no other zones
    except (ValueError, OverflowError):
        raise BadRequest("This page of the list is not there.") from None
    if not 0 < len(identifier) <= 100:
        raise BadRequest("This page of the list is not there.")
    return when, identifier


def _number(request: Request) -> int:
    given = request.query_params.get("skip", "0")
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 9 else 0
