"""Answers: a form is held until its sender has proven once more who they are; then the desk is asked.

    form ──checks──▶ pending ──browser to the provider and back──▶ same person? same request? ──▶ desk

So neither a session left open nor a page of somebody else's can answer anything, and the groups that count are those
that the provider names at that moment. Every refusal is a page and an entry of the log.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hoop_core.approvals.approval import Approval, NoSuchApproval
from hoop_core.audit.log import AuditLog
from hoop_core.config import PageSettings, SignInSettings
from hoop_core.errors import ApprovalRefused, HoopError, Refused
from hoop_core.guard import Guard
from hoop_core.http import BadRequest
from hoop_core.identity.proof import Proof
from hoop_core.model import AnswerVerdict, Identity, Json
from hoop_core.records import person_json
from hoop_core.signin.browser import Errand
from hoop_core.signin.door import SignIn
from hoop_core.signin.refusals import Refusals
from hoop_core.store.web_sessions import PendingAnswers
from hoop_core.web.forms import read_form
from hoop_core.web.pages.asked import ACTIONS, state_of
from hoop_core.web.pages.people import People, Visitor
from hoop_core.web.pages.rendering import Rendering, onwards
from hoop_core.web.pages.showing import RequestPage
from hoop_core.web.pages.ways import client_of

_LONGEST_REASON = 4000
_LONGEST_FORM = 64 * 1024
_PLAIN_WORD, _PLAIN_COUNT = re.compile(r"[a-z]{1,20}\Z"), re.compile(r"[0-9]{1,5}\Z")
"""Of a form's own word for what it was made from."""


class AnswerRefused(Refused):
    """An answer that never came to the desk. `status` is that of the page."""

    reason = "ANSWER_REFUSED"

    def __init__(self, title: str, message: str, hint: str, *, reason: str, status: int) -> None:
        super().__init__(message, hint, reason=reason)
        self.title, self.status = title, status


class Answers:
    def __init__(
        self,
        settings: PageSettings,
        timing: SignInSettings,
        sign_in: SignIn,
        guard: Guard,
        log: AuditLog,
        *,
        pending: PendingAnswers,
        people: People,
        requests: RequestPage,
        rendering: Rendering,
    ) -> None:
        self._settings, self._seconds = settings, timing.browser_seconds
        self._sign_in, self._guard, self._audit = sign_in, guard, log
        self._pending, self._people = pending, people
        self._requests, self._rendering = requests, rendering
        self.refusals = Refusals(
            log,
            per_minute=timing.logged_per_minute,
            kind="approval.answer_refused",
            counted="approval.refusals_counted",
        )

    # ------------------------------------------------------------------ the form

    async def send(self, request: Request) -> Response:
        """Take an answer, hold it, and send the browser to prove who answers."""
        identifier = request.path_params["id"]
        someone = await self._people.visitor(request)
        try:
            form = await read_form(request, _LONGEST_FORM)
            visitor = self._check_form(request, someone, form)
        except (AnswerRefused, BadRequest) as e:
            return await self._refused(request, identifier, someone, e)
        try:
            approval = await self._requests.visible(identifier, visitor.identity)
        except NoSuchApproval as e:
            await self._record(request, identifier, visitor, e)
            raise
        reason, do = form.get("reason", "").strip(), form["do"]
        if not 0 < len(reason) <= _LONGEST_REASON:
            fault = "Say why: an answer needs a reason."
            if reason:
                fault = f"The reason is longer than {_LONGEST_REASON} characters."
            return await self._requests.show(
                approval, visitor, status=400, fault=fault, reason=reason[:_LONGEST_REASON]
            )
        if form.get("state") != state_of(approval):
            return await self._stale(request, approval, visitor, form.get("state", ""), reason)
        return await self._hold(request, approval, visitor, do=do, reason=reason)

    def _check_form(
        self, request: Request, visitor: Visitor | None, form: dict[str, str]
    ) -> Visitor:
        """Who sends it. Raises AnswerRefused."""
        if not self._people.of_our_own(request):
            raise AnswerRefused(
                "This answer did not come from Hoop's own page",
                "Your browser says that another site sent this form, or does not say where it comes from. "
                "Nothing was recorded.",
                "Open the request in Hoop and answer there. If you did: Hoop has to be opened at its own address, "
                "over https.",
                reason="CROSS_SITE",
                status=403,
            )
        if visitor is None:
            raise AnswerRefused(
                "You are signed out",
                "Your session had ended when the answer came. Nothing was recorded.",
                "Sign in and answer again.",
                reason="SESSION_OVER",
                status=401,
            )
        if not hmac.compare_digest(form.get("csrf", "").encode(), visitor.csrf.encode()):
            raise AnswerRefused(
                "This form is not of your session",
                "The form was made in another session: you signed in again since, or it is not yours. "
                "Nothing was recorded.",
                "Open the request again and answer there.",
                reason="CSRF",
                status=403,
            )
        if form.get("do") not in ACTIONS:
            raise AnswerRefused(
                "This form says nothing",
                "The form does not say what you want to do. Nothing was recorded.",
                "Open the request again and use one of its buttons.",
                reason="BAD_REQUEST",
                status=400,
            )
        return visitor

    async def _hold(
        self, request: Request, approval: Approval, visitor: Visitor, *, do: str, reason: str
    ) -> Response:
        provider = visitor.identity.issuer
        if provider not in {c.name for c in self._sign_in.browser.choices}:
            refusal = AnswerRefused(
                "Your identity provider cannot confirm you",
                f"{provider} is not set up for browsers any more, and an answer needs a fresh proof from it. "
                "Nothing was recorded.",
                "Answer with `hoop approvals approve`, or ask the platform team.",
                reason="NO_FRESH_PROOF",
                status=403,
            )
            return await self._refused(request, approval.id, visitor, refusal)
        key = self._people.proof_key(request)
        errand = Errand(
            next=f"/approvals/{approval.id}",
            answer=self._pending.handle_for(visitor.identity.key),
            hint=visitor.identity.name,
            max_age=self._settings.answer_max_age_seconds,
        )
        # The way first: who begins too many leaves nothing behind.
        to, journey = await self._sign_in.browser.begin_proof(errand, visitor.identity, key)
        body = {
            "approval": approval.id,
            "do": do,
            "reason": reason,
            "state": state_of(approval),
            "person": visitor.identity.key,
            "session": visitor.handle,
            "journey": journey,
        }
        await asyncio.to_thread(self._pending.put, errand.answer or "", body, self._seconds)
        # Not a redirect: browsers hold a form's whole chain of redirects to `form-action`, the provider's too.
        response = self._rendering.page(
            "confirm.html", to=to, do=do, provider=provider, visitor=visitor, at=""
        )
        self._people.bind(response, key, self._seconds)
        return response

    # ------------------------------------------------------------------ the proof

    async def proven(self, request: Request, proof: Proof, errand: Errand) -> Response:
        """Whoever came back gives the answer that was held, if it is still theirs and still fits."""
        someone = await self._people.visitor(request)
        waiting = await asyncio.to_thread(self._pending.take, errand.answer or "")
        identifier = errand.next.rpartition("/")[2]
        try:
            visitor, held = self._check_proof(someone, waiting, proof.identity)
        except AnswerRefused as e:
            return await self._refused(request, identifier, someone, e, proof.identity)
        await self._people.proven_again(visitor, proof.identity)
        approval = await asyncio.to_thread(self._guard.desk.get, identifier)
        if held["state"] != state_of(approval):
            return await self._stale(request, approval, visitor, held["state"], held["reason"])
        try:
            await asyncio.to_thread(self._give, held, proof.identity)
        except ApprovalRefused as e:  # the desk has it in the log
            return self._told(identifier, "Your answer was not taken", e, 409, visitor)
        return onwards(f"/approvals/{identifier}?said={held['do']}")

    def _check_proof(
        self, visitor: Visitor | None, held: Json | None, proven: Identity
    ) -> tuple[Visitor, Json]:
        """Whose answer it is, and what. Raises AnswerRefused."""
        if held is None:
            raise AnswerRefused(
                "This answer is not waiting any more",
                "It took too long to confirm, or it was confirmed already. It was not recorded a second time.",
                "Open the request: it says what was answered.",
                reason="ANSWER_GONE",
                status=409,
            )
        if visitor is None:
            raise AnswerRefused(
                "You are signed out",
                "Your session ended before you confirmed the answer. Nothing was recorded.",
                "Sign in and answer again.",
                reason="SESSION_OVER",
                status=401,
            )
        if visitor.handle != held["session"] or not (
            visitor.identity.key == held["person"] == proven.key
        ):
            raise AnswerRefused(
                "Somebody else confirmed this answer",
                f"The identity provider says that you are {proven.name}, and the answer was not {proven.name}'s. "
                "Nothing was recorded.",
                "Sign out here and at the identity provider, then sign in as yourself.",
                reason="ANOTHER_PERSON",
                status=403,
            )
        return visitor, held

    def _give(self, held: Json, who: Identity) -> None:
        """What was held, at the desk. Raises ApprovalRefused, which is in the log."""
        desk, identifier, reason = self._guard.desk, held["approval"], held["reason"]
        self._audit.append(
            "approval.proof",
            {
                "approval": identifier,
                "do": held["do"],
                "by": person_json(who),
                "method": who.method,
                "token_sha256": who.token_digest,
                "seen": held["state"],
            },
        )
        acts: dict[str, Callable[[], Any]] = {
            "approve": lambda: desk.answer(identifier, who, AnswerVerdict.APPROVE, reason),
            "reject": lambda: desk.answer(identifier, who, AnswerVerdict.REJECT, reason),
            "withdraw": lambda: desk.withdraw(identifier, who, reason),
            "revoke": lambda: desk.revoke(identifier, who, reason),
            "break_glass": lambda: desk.break_glass(identifier, who, reason),
            "review": lambda: desk.review(identifier, who, reason),
        }
        acts[held["do"]]()

    async def not_proven(self, request: Request, errand: Errand, error: HoopError) -> Response:
        """The provider did not confirm who answers, or what it sent does not fit."""
        await asyncio.to_thread(self._pending.take, errand.answer or "")
        identifier = errand.next.rpartition("/")[2]
        visitor = await self._people.visitor(request)
        refusal = AnswerRefused(
            "Your answer was not recorded",
            f"Your identity provider did not confirm who you are. {error.message}",
            error.hint or "Open the request and answer again.",
            reason="NO_FRESH_PROOF",
            status=403,
        )
        return await self._refused(request, identifier, visitor, refusal)

    # ------------------------------------------------------------------ refusals

    async def _stale(
        self, request: Request, approval: Approval, visitor: Visitor, seen: str, reason: str
    ) -> Response:
        """The request is not any more what the person had in front of them: shown again, with their text."""
        was, _, rest = seen.partition(".")
        count = rest.partition(".")[0]
        known = _PLAIN_WORD.match(was) and _PLAIN_COUNT.match(count)
        before = f"When you opened it, it was {was} with {count} answers; " if known else ""
        fault = (
            "The request has changed since you opened this page, so your answer was not recorded. "
            f"{before}{'now' if before else 'Now'} it is {approval.status} with {len(approval.answers)}. "
            "Look at it again; your reason is still here."
        )
        error = AnswerRefused("", fault, "", reason="STALE_FORM", status=409)
        await self._record(request, approval.id, visitor, error)
        return await self._requests.show(approval, visitor, status=409, fault=fault, reason=reason)

    async def _refused(
        self,
        request: Request,
        identifier: str,
        visitor: Visitor | None,
        error: HoopError,
        proven: Identity | None = None,
    ) -> Response:
        await self._record(request, identifier, visitor, error, proven)
        title, status = "This form cannot be read", 400
        if isinstance(error, AnswerRefused):
            title, status = error.title, error.status
        return self._told(identifier, title, error, status, visitor)

    def _told(
        self, identifier: str, title: str, error: HoopError, status: int, visitor: Visitor | None
    ) -> Response:
        back = (f"/approvals/{identifier}", "Open the request")
        return self._rendering.message(
            title, error.message, error.hint, status=status, visitor=visitor, back=back
        )

    async def _record(
        self,
        request: Request,
        identifier: str,
        visitor: Visitor | None,
        error: HoopError,
        proven: Identity | None = None,
    ) -> None:
        await self.refusals.add(
            visitor.identity if visitor else None,
            client_of(request),
            error,
            approval=identifier[:100],
            why=error.message,
            proven=person_json(proven) if proven else None,
        )
