"""The pages put together."""

from __future__ import annotations

from collections.abc import Callable

from hoop_core.audit.log import AuditLog
from hoop_core.config import Settings
from hoop_core.guard import Guard
from hoop_core.signin.door import SignIn
from hoop_core.store import Store
from hoop_core.store.web_sessions import PendingAnswers
from hoop_core.web.pages.answers import Answers
from hoop_core.web.pages.doors import Doors
from hoop_core.web.pages.live import Live
from hoop_core.web.pages.making import Workshop
from hoop_core.web.pages.people import People
from hoop_core.web.pages.rendering import Rendering
from hoop_core.web.pages.routes import Pages
from hoop_core.web.pages.showing import RequestPage
from hoop_core.web.reads import Reads
from hoop_core.web.sso import SsoPages
from hoop_core.web.visibility import Visibility


def build_pages(
    settings: Settings,
    *,
    public_url: str,
    store: Store,
    log: AuditLog,
    sign_in: SignIn,
    guard: Guard,
    stopping: Callable[[], bool],
    reads: Reads,
) -> Pages:
    """`stopping` says whether the process is about to end: then no page is kept on the line."""
    rendering = Rendering()
    visibility = Visibility(settings.gateway.readers, store, log)
    people = People(settings.pages, store, public_url=public_url)
    workshop = Workshop()
    requests = RequestPage(guard, visibility, rendering, workshop)
    answers = Answers(
        settings.pages,
        settings.sign_in,
        sign_in,
        guard,
        log,
        pending=PendingAnswers(store),
        people=people,
        requests=requests,
        rendering=rendering,
    )
    doors = Doors(settings.sign_in, sign_in, people=people, answers=answers, rendering=rendering)
    return Pages(
        guard,
        visibility=visibility,
        people=people,
        requests=requests,
        answers=answers,
        doors=doors,
        sso=SsoPages(sign_in, sign_in.browser, rendering, sent_back=doors.sent_back),
        live=Live(store, most=settings.pages.live_pages, stopping=stopping),
        rendering=rendering,
        workshop=workshop,
        reads=reads,
    )
