"""Lists over REST: a page at a time, of what the caller may see, however much was asked and by whom."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from hoop_core.approvals import desk as desk_module
from hoop_core.approvals import moves
from hoop_core.approvals.binding import digest
from hoop_core.approvals.book import Wanted
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.config import LimitSettings
from hoop_core.errors import ApprovalRefused
from hoop_core.gateway.limits import Limits, TooMany
from hoop_core.http import BadRequest
from hoop_core.model import AnswerVerdict, ApprovalTerms, BreakGlass, Identity, RoleBinding
from hoop_core.store import Store
from hoop_core.web import listing
from hoop_core.web.api import Api
from hoop_core.web.listing import asked_page
from hoop_core.web.openapi import document
from hoop_core.web.reads import Reads
from hoop_core.web.visibility import Visibility

HOUR = timedelta(hours=1)


def person(name: str, *groups: str, actors: tuple[str, ...] = ()) -> Identity:
    return Identity("https://idp", name, name, groups, "oidc", "", actors=actors)


BOT = ("https://idp#bot",)
AGENT, ANN, REA = person("agent"), person("ann", "owners"), person("rea", "readers")
PEOPLE = {
    "agent": AGENT,
    "ann": ANN,
    "rea": REA,
    "bot-of-ann": replace(ANN, actors=BOT),
    "bot-of-rea": replace(REA, actors=BOT),
    "bot-of-agent": replace(AGENT, actors=BOT),
    "other-bot-of-agent": replace(AGENT, actors=("https://idp#other",)),
}


@dataclass(frozen=True)
class Bound:
    identity: Identity
    number: int
    scope: str | None = None

    @property
    def digest(self) -> str:
        return digest([self.identity.key, self.number, self.scope, list(self.identity.actors)])


@pytest.fixture
def desk(store: Store, log: AuditLog) -> ApprovalDesk:
    return ApprovalDesk(store, log)


def ask(desk: ApprovalDesk, number: int = 0, *, who: Identity = AGENT, **body: Any) -> str:
    terms = ApprovalTerms(("owners",), 1, HOUR, HOUR, break_glass=BreakGlass(("owners",), HOUR))
    scope = body.pop("scope", None)
    question = {"kind": "delete", "sql": "x", "policy_digest": "d", **body}
    question["requester"] = {"issuer": who.issuer, "subject": who.subject, "name": who.name}
    return desk.ask(Bound(who, number, scope), terms, question, session_id=None).id


class _SignIn:
    async def by_token(self, token: str, _client: object) -> Any:
        return SimpleNamespace(identity=PEOPLE[token])

    async def spend(self, *_: object) -> None: ...


class Rest:
    """The API of one desk, over ASGI."""

    def __init__(self, store: Store, log: AuditLog, desk: ApprovalDesk, limits: Limits) -> None:
        guard: Any = SimpleNamespace(
            desk=desk,
            policy=SimpleNamespace(digest="d"),
            choose_account=lambda _given: "",
            role_for=lambda *_: RoleBinding("v", "R"),
        )
        settings: Any = SimpleNamespace(readers=["readers"], max_body_bytes=1 << 20)
        sign_in: Any = _SignIn()
        opener: Any = None
        self.api = Api(
            settings,
            sign_in,
            store,
            log,
            guard,
            open_upstream=opener,
            asks=limits.statement,
            reads=Reads(log),
        )
        self.http = TestClient(Starlette(routes=self.api.routes()))

    def get(self, path: str, who: str = "ann", **query: Any) -> Any:
        headers = {"authorization": f"Bearer {who}"}
        return self.http.get(f"/hoop/v1{path}", params=query, headers=headers)

    def post(self, path: str, who: str, **body: Any) -> Any:
        headers = {"authorization": f"Bearer {who}"}
        return self.http.post(f"/hoop/v1{path}", json=body, headers=headers)

    def pages(self, path: str, who: str = "ann", **query: Any) -> Iterator[list[Any]]:
        cursor: dict[str, str] = {}
        while True:
            body = self.get(path, who, **query, **cursor).json()
            following = body.pop("next")
            (entries,) = body.values()
            yield entries
            if following is None:
                return
            cursor = {"before": following}


@pytest.fixture
def rest(store: Store, log: AuditLog, desk: ApprovalDesk) -> Rest:
    return Rest(store, log, desk, Limits(LimitSettings()))


def ids(entries: list[Any]) -> list[str]:
    return [e["id"] for e in entries]


# ------------------------------------------------------------------ pages


@pytest.mark.parametrize("status", [None, "pending"])
def test_pages_have_each_request_once_and_in_order(
    rest: Rest, desk: ApprovalDesk, status: str | None
) -> None:
    asked = [ask(desk, n) for n in range(7)]
    query = {} if status is None else {"status": status}
    pages = [ids(p) for p in rest.pages("/approvals", limit=3, **query)]
    assert [len(p) for p in pages] == [3, 3, 1]
    assert [i for p in pages for i in p] == (asked[::-1] if status is None else asked)


def test_a_page_has_its_most_where_nobody_says_how_many(
    rest: Rest, desk: ApprovalDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listing.MOST == 200
    monkeypatch.setattr(listing, "MOST", 3)
    for n in range(5):
        ask(desk, n)
    assert [len(p) for p in rest.pages("/approvals")] == [3, 2]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/standing-approvals", "standing_approval"),
        ("/masking-exceptions", "masking_exception"),
    ],
)
def test_lists_of_grants_have_pages_too(
    rest: Rest, desk: ApprovalDesk, path: str, kind: str
) -> None:
    asked = [ask(desk, n, scope=f"s{n}", kind=kind) for n in range(4)]
    ask(desk, 9)
    assert [ids(p) for p in rest.pages(path, limit=3)] == [asked[:0:-1], asked[:1]]


def test_long_texts_are_cut_in_a_list_and_whole_by_themselves(
    rest: Rest, desk: ApprovalDesk
) -> None:
    short = ask(desk, 0, sql="s" * listing.SHOWN)
    long = ask(desk, 1, sql="s" * 9000, rewritten="r" * 9000)
    first, second = rest.get("/approvals").json()["approvals"]
    assert (first["id"], second["id"]) == (long, short)
    assert first["cut"] is True and "cut" not in second
    assert first["sql"] == "s" * 2000 and first["rewritten"] == "r" * 2000
    alone = rest.get(f"/approvals/{long}").json()
    assert (alone["sql"], alone["rewritten"]) == ("s" * 9000, "r" * 9000)
    assert "cut" not in alone


def test_a_heavy_page_ends_early_and_the_next_one_goes_on(
    rest: Rest, desk: ApprovalDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_HEAVY", 50_000)
    asked = [ask(desk, n, parameters=[{"value": "v" * 20_000}]) for n in range(7)]
    pages = [ids(p) for p in rest.pages("/approvals")]
    assert [len(p) for p in pages] == [3, 3, 1]
    assert [i for p in pages for i in p] == asked[::-1]


def test_no_more_than_a_few_whole_requests_are_read_at_once(
    desk: ApprovalDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_AT_ONCE", 4)
    for n in range(10):
        ask(desk, n)
    sizes: list[int] = []

    def read(wanted: Wanted) -> list[Any]:
        found = desk.list(wanted)
        sizes.append(len(found))
        return found

    entries, following = listing.page(read, Wanted(limit=9), lambda a: a.as_json())
    assert (len(entries), sizes) == (9, [4, 4, 1])
    assert following is not None


@pytest.mark.parametrize("limit", ["0", "201", "-1", "1e2", "", " 5", "٣", "9999999999"])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(BadRequest, match="limit must be a whole number from 1 to 200"):
        asked_page(Wanted(), {"limit": limit})


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "ä",
        "!!!!",
        "A" * 500,
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        _encoded("2026-01-01T00:00:00+00:00"),
        _encoded("2026-01-01T00:00:00~apr_1"),
        _encoded("0001-01-01T00:00:00+23:59~apr_1"),
        _encoded("9999-12-31T23:59:59-23:59~apr_1"),
        _encoded("~apr_1"),
    ],
)
def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    with pytest.raises(BadRequest, match="not the cursor of a page"):
        asked_page(Wanted(), {"before": cursor})


def test_what_is_wrong_with_a_page_is_said(rest: Rest) -> None:
    assert rest.get("/approvals", limit="x").status_code == 400
    assert rest.get("/approvals", before="x").status_code == 400


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode()))
def test_any_text_for_a_cursor_is_read_or_refused(cursor: str) -> None:
    with suppress(BadRequest):
        asked_page(Wanted(), {"before": cursor})


def test_pages_are_as_described(rest: Rest, desk: ApprovalDesk) -> None:
    ask(desk, 0, sql="s" * 9000)
    ask(desk, 1)
    described = document("/hoop/v1")
    found = described["paths"]["/hoop/v1/approvals"]["get"]
    assert {"limit", "before", "status"} <= {p["name"] for p in found["parameters"]}
    schema = found["responses"]["200"]["content"]["application/json"]["schema"]
    schema = {**schema, "components": described["components"]}
    for limit in (1, 200):
        jsonschema.validate(rest.get("/approvals", limit=limit).json(), schema)


# ------------------------------------------------------------------ who acts for somebody


def test_who_acts_for_an_approver_or_a_reader_sees_nothing_of_strangers(
    rest: Rest, desk: ApprovalDesk
) -> None:
    asked = ask(desk)
    for who in ("bot-of-ann", "bot-of-rea", "bot-of-agent"):
        assert rest.get("/approvals", who).json() == {"approvals": [], "next": None}
        assert rest.get(f"/approvals/{asked}", who).status_code == 404
    for who in ("agent", "ann", "rea"):
        assert ids(rest.get("/approvals", who).json()["approvals"]) == [asked]
        assert rest.get(f"/approvals/{asked}", who).status_code == 200


def test_who_acts_for_somebody_sees_and_takes_back_what_came_by_the_same_way(
    rest: Rest, desk: ApprovalDesk
) -> None:
    asked = ask(desk, who=PEOPLE["bot-of-agent"])
    for who in ("bot-of-agent", "agent"):
        assert rest.get(f"/approvals/{asked}", who).status_code == 200
    assert rest.get(f"/approvals/{asked}", "other-bot-of-agent").status_code == 404
    path = f"/approvals/{asked}/withdrawal"
    assert rest.post(path, "other-bot-of-agent", reason="x").status_code == 404
    assert rest.post(path, "bot-of-agent", reason="x").json()["status"] == "withdrawn"


@pytest.mark.parametrize("move", ["revoke", "withdraw"])
@pytest.mark.parametrize("who", ["bot-of-ann", "bot-of-agent"])
def test_who_acts_for_somebody_ends_nothing_that_came_another_way(
    desk: ApprovalDesk, log: AuditLog, who: str, move: str
) -> None:
    asked = ask(desk, scope="s", kind="standing_approval")
    desk.answer(asked, ANN, AnswerVerdict.APPROVE, "fine")
    with pytest.raises(ApprovalRefused):
        getattr(desk, move)(asked, PEOPLE[who], "because")
    assert desk.get(asked).status == "approved"
    assert [e.kind for e in log.entries()][-1] == f"approval.{move}_refused"


@pytest.mark.parametrize("who", ["agent", "bot-of-agent", "ann"])
def test_who_asked_and_who_may_answer_end_a_grant(desk: ApprovalDesk, who: str) -> None:
    asked = ask(desk, who=PEOPLE["bot-of-agent"], scope="s", kind="standing_approval")
    assert desk.revoke(asked, PEOPLE[who], "because").status == "revoked"


def test_no_program_is_told_how_much_waits_for_the_person(desk: ApprovalDesk) -> None:
    ask(desk)
    for wanted in (Wanted(undecided_by=ANN), Wanted(seen_by=ANN)):
        assert desk.count(wanted) == 1
    bot = PEOPLE["bot-of-ann"]
    for wanted in (Wanted(undecided_by=bot), Wanted(seen_by=bot)):
        assert desk.count(wanted) == 0


def test_who_acts_for_a_reader_reads_sessions_as_anybody(store: Store, log: AuditLog) -> None:
    visibility = Visibility(("readers",), store, log)
    assert visibility.reads_all(REA)
    assert not visibility.reads_all(PEOPLE["bot-of-rea"])


# ------------------------------------------------------------------ how much one may ask


def test_asking_and_taking_back_has_an_end_within_an_hour(
    desk: ApprovalDesk, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "MOST_AN_HOUR", 4)
    for n in range(4):
        desk.withdraw(ask(desk, n), AGENT, "never mind")
    for scope in (None, "s"):
        with pytest.raises(ApprovalRefused, match="4 requests for approval within an hour"):
            ask(desk, 9, scope=scope)
    ask(desk, 9, who=ANN)
    now = utc_now()
    monkeypatch.setattr(desk_module, "utc_now", lambda: now + HOUR + timedelta(minutes=1))
    ask(desk, 9)


def test_the_limit_of_an_hour_is_what_the_documentation_says() -> None:
    assert (moves.MOST_AN_HOUR, moves.MOST_ASKED) == (1000, 256 << 10)


def test_a_standing_grant_that_is_too_large_is_not_put(desk: ApprovalDesk, log: AuditLog) -> None:
    bounds = {f"g{i}": {"type": "text", "one_of": ["v" * 200] * 1000} for i in range(2)}
    with pytest.raises(ApprovalRefused, match="at most 262144 characters") as refused:
        ask(desk, scope="s", kind="standing_approval", bounds=bounds)
    assert refused.value.reason == "APPROVAL_TOO_LARGE"
    assert list(log.entries()) == []
    half = {"g0": {"type": "text", "one_of": ["v" * 200] * 1000}}
    assert len(json.dumps(half)) < moves.MOST_ASKED
    ask(desk, scope="s", kind="standing_approval", bounds=half)


@pytest.mark.parametrize("path", ["/approvals", "/standing-approvals", "/masking-exceptions"])
def test_what_is_asked_over_rest_counts_as_a_statement(
    store: Store, log: AuditLog, desk: ApprovalDesk, path: str
) -> None:
    limits = Limits(LimitSettings(statements_per_minute=2))
    rest = Rest(store, log, desk, limits)
    answers = [rest.post(path, "agent", nonsense=1) for _ in range(3)]
    assert [a.status_code for a in answers] == [400, 400, 429]
    assert answers[2].json()["error"]["reason"] == "TOO_FAST"
    assert rest.post(path, "ann", nonsense=1).status_code == 400
    assert limits.statements == 0


def test_what_is_asked_over_rest_is_counted_while_it_is_under_way() -> None:
    limits = Limits(LimitSettings(statements_at_once=1))

    with limits.statement("a"), pytest.raises(TooMany, match="1 statements under way"):
        limits.begin_statement("a")
    limits.begin_statement("a")
