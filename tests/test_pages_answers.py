"""Answers given on the pages: each is signed by a fresh proof, and every refusal is a page and in the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hoop_core.model import ApprovalStatus
from hoop_core.store.web_sessions import PendingAnswers
from tests.pages_world import GROUPS, OWNERS, PagesWorld, Surfer, pages_world
from tests.sign_in_world import gateway, new_ports


@pytest.fixture(scope="module", params=["oidc", pytest.param("saml", marks=pytest.mark.nightly)])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PagesWorld]:
    # a minute is longer than this file: nothing may be counted instead of told
    settings = {"sign_in": {"failures_per_minute": 0, "logged_per_minute": 1000}}
    with pages_world(request.param, tmp_path_factory.mktemp(request.param), **settings) as made:
        yield made


@pytest.fixture
def world(shared: PagesWorld) -> Iterator[PagesWorld]:
    shared.idp.lies.clear()
    shared.idp.groups = {k: list(v) for k, v in GROUPS.items()}
    shared.idp.prompts.clear()
    yield shared
    shared.idp.lies.clear()


@pytest.fixture
def ann(world: PagesWorld) -> Surfer:
    surfer = world.surfer("ann")
    surfer.get("/approvals")
    return surfer


def refusals(world: PagesWorld, identifier: str) -> list[str]:
    """Why answers to this request were refused, as the log has it."""
    return [
        e.get("reason", "") or e["why"]
        for e in world.log("approval.answer_refused")
        if e["approval"] == identifier
    ]


# ---------------------------------------------------------------------- the way it should go


def test_an_answer_is_signed_by_a_fresh_proof(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    page = ann.answer(asked.id, reason="It is rebuilt an hour later.")
    assert page.status_code == 200
    assert "Your answer is recorded" in page.text
    found = world.get(asked.id)
    assert found.status is ApprovalStatus.APPROVED
    assert found.answers[0]["approver"]["subject"] == "ann"
    assert found.answers[0]["reason"] == "It is rebuilt an hour later."
    proof = next(e for e in world.log("approval.proof") if e["approval"] == asked.id)
    assert proof["by"]["subject"] == "ann"
    assert proof["method"] == world.kind
    assert len(proof["token_sha256"]) == 64
    if world.kind == "oidc":
        assert world.idp.prompts[-1] == "none"  # nobody is asked twice in a minute


def test_nothing_counts_before_the_proof(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    held = ann.send(asked.id)
    assert held.status_code == 200
    assert 'http-equiv="refresh"' in held.text
    assert not world.get(asked.id).answers


def test_a_rejection_counts_too(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    ann.answer(asked.id, "reject", reason="Not on a Friday.")
    assert world.get(asked.id).status is ApprovalStatus.REJECTED


def test_a_quorum_needs_two_persons(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask(quorum=2)
    ann.answer(asked.id)
    assert world.get(asked.id).status is ApprovalStatus.PENDING
    world.surfer("ben").answer(asked.id)
    assert world.get(asked.id).status is ApprovalStatus.APPROVED


def test_who_asked_withdraws(world: PagesWorld) -> None:
    asked = world.ask(who=world.person("eve", "ml-agents"))
    page = world.surfer("eve").answer(asked.id, "withdraw", reason="A mistake.")
    assert "Done." in page.text
    assert world.get(asked.id).status is ApprovalStatus.WITHDRAWN


def test_glass_is_broken_by_one_and_reviewed_by_another(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask(quorum=2, break_glass=True)
    cat = world.surfer("cat")
    assert "Break the glass" in cat.get(f"/approvals/{asked.id}").text
    cat.answer(asked.id, "break_glass", reason="The site is down.")
    broken = world.get(asked.id)
    assert (broken.status, broken.review_open) == (ApprovalStatus.APPROVED, True)
    assert "Close the review" not in cat.get(f"/approvals/{asked.id}").text
    assert "Close the review" in ann.get(f"/approvals/{asked.id}").text
    assert "waits for a review" in ann.get("/approvals").text
    assert asked.id in ann.get("/approvals?show=review").text
    ann.answer(asked.id, "review", reason="It was right.")
    assert not world.get(asked.id).review_open


# ---------------------------------------------------------------------- the provider


def test_a_provider_that_knows_nobody_any_more_asks(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    fields = ann.form(ann.get(f"/approvals/{asked.id}"))
    ann.client.cookies.delete("idp-person", domain="127.0.0.1", path="/")
    ann.answer(asked.id, fields=fields)
    assert world.get(asked.id).status is ApprovalStatus.APPROVED
    if world.kind == "oidc":
        assert world.idp.prompts[-3:] == ["none", "login", "login"]  # asked, and clicked


def test_somebody_else_cannot_confirm(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    fields = ann.form(ann.get(f"/approvals/{asked.id}"))
    ann.client.cookies.set("idp-person", "ben", domain="127.0.0.1", path="/")
    page = ann.answer(asked.id, fields=fields)
    assert page.status_code == 403
    assert "Somebody else confirmed" in page.text
    assert not world.get(asked.id).answers
    assert refusals(world, asked.id) == ["ANOTHER_PERSON"]
    entry = next(e for e in world.log("approval.answer_refused") if e["approval"] == asked.id)
    assert (entry["identity"]["subject"], entry["proven"]["subject"]) == ("ann", "ben")


def test_groups_count_as_they_are_when_the_answer_is_given(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    fields = ann.form(ann.get(f"/approvals/{asked.id}"))
    world.idp.groups["ann"] = ["guests"]  # taken away between opening and answering
    page = ann.answer(asked.id, fields=fields)
    assert page.status_code == 409
    assert "in none of the groups that may answer" in page.text
    assert not world.get(asked.id).answers
    assert any("none of the groups" in why for why in refusals(world, asked.id))
    assert ann.get(f"/approvals/{asked.id}").status_code == 404  # and she sees it no longer


def test_a_provider_that_does_not_confirm_ends_it(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    fields = ann.form(ann.get(f"/approvals/{asked.id}"))
    world.idp.lies["answer"] = {"error": "access_denied", "code": ""}
    world.idp.lies["saml"] = {"status": "urn:oasis:names:tc:SAML:2.0:status:Responder"}
    page = ann.answer(asked.id, fields=fields)
    assert page.status_code == 403
    assert "Your answer was not recorded" in page.text
    assert refusals(world, asked.id) == ["NO_FRESH_PROOF"]


def test_a_provider_that_is_gone_from_the_settings_fails_closed(
    world: PagesWorld, ann: Surfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = world.ask()
    fields = ann.form(ann.get(f"/approvals/{asked.id}"))
    monkeypatch.setattr(world.gateway.sign_in.browser, "choices", ())
    page = ann.send(asked.id, fields=fields)
    assert page.status_code == 403
    assert "not set up for browsers any more" in page.text
    assert refusals(world, asked.id) == ["NO_FRESH_PROOF"]


@pytest.mark.parametrize("kind", ["oidc", "saml"])
def test_a_password_may_be_asked_for_with_each_answer(tmp_path: Path, kind: str) -> None:
    changes = {"pages": {"answer_max_age_seconds": 0}}
    with pages_world(kind, tmp_path, **changes) as made:
        asked = made.ask(quorum=2)
        ann = made.surfer("ann")
        ann.answer(asked.id)
        assert len(made.get(asked.id).answers) == 1
        assert sum("as=ann" in u for u in ann.visited) == (1 if kind == "oidc" else 2)
        old = int(time.time()) - 600
        made.idp.lies["always"] = {"auth_time": old}
        made.idp.lies["saml"] = {"signed_in": -600}
        page = made.surfer("ben").answer(asked.id)
        assert page.status_code == 403
        assert "too long ago" in page.text
        assert len(made.get(asked.id).answers) == 1


# ---------------------------------------------------------------------- forms that do not count


@pytest.mark.parametrize(
    ("changes", "status", "why"),
    [
        ({"csrf": "0" * 64}, 403, "CSRF"),
        ({"csrf": None}, 403, "CSRF"),
        ({"headers": {"sec-fetch-site": "cross-site"}}, 403, "CROSS_SITE"),
        ({"headers": {"sec-fetch-site": "same-site"}}, 403, "CROSS_SITE"),
        ({"headers": {"sec-fetch-site": "", "origin": "https://evil.example"}}, 403, "CROSS_SITE"),
        ({"headers": {"sec-fetch-site": "", "origin": "null"}}, 403, "CROSS_SITE"),
        ({"headers": {"sec-fetch-site": ""}}, 403, "CROSS_SITE"),
        ({"headers": {"content-type": "application/json"}}, 400, "BAD_REQUEST"),
        ({"do": "drop everything"}, 400, "BAD_REQUEST"),
    ],
)
def test_a_form_that_is_not_of_this_session_and_page_is_refused(
    world: PagesWorld, ann: Surfer, changes: dict[str, object], status: int, why: str
) -> None:
    asked = world.ask()
    page = ann.send(asked.id, **changes)  # type: ignore[arg-type]
    assert page.status_code == status
    assert "Nothing was recorded" in page.text or status == 400
    assert refusals(world, asked.id) == [why]
    assert not world.get(asked.id).answers


def test_the_form_of_another_person_is_refused(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    ben = world.surfer("ben")
    fields = ben.form(ben.get(f"/approvals/{asked.id}"))
    assert ann.send(asked.id, fields=fields).status_code == 403
    assert refusals(world, asked.id) == ["CSRF"]


def test_an_ended_session_answers_nothing(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    fields = ann.form(ann.get(f"/approvals/{asked.id}"))
    ann.client.post(f"{world.url}/sign-out", headers={"sec-fetch-site": "same-origin"})
    page = ann.send(asked.id, fields=fields)
    assert page.status_code == 401
    assert "You are signed out" in page.text
    assert refusals(world, asked.id) == ["SESSION_OVER"]


def test_a_session_that_ends_on_the_way_answers_nothing(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask()
    held = ann.send(asked.id)
    ann.client.post(f"{world.url}/sign-out", headers={"sec-fetch-site": "same-origin"})
    page = ann.follow(held)
    assert page.status_code == 401
    assert refusals(world, asked.id) == ["SESSION_OVER"]
    assert not world.get(asked.id).answers


def test_a_stale_form_shows_what_changed_and_keeps_the_reason(
    world: PagesWorld, ann: Surfer
) -> None:
    asked = world.ask(quorum=2)
    fields = ann.form(ann.get(f"/approvals/{asked.id}"))
    world.surfer("ben").answer(asked.id, reason="Fine by me.")
    page = ann.send(asked.id, fields=fields, reason="I had looked at it before.")
    assert page.status_code == 409
    assert "it was pending with 0 answers; now it is pending with 1" in page.text
    assert "I had looked at it before." in page.text
    assert "Fine by me." in page.text
    assert refusals(world, asked.id) == ["STALE_FORM"]
    again = ann.form(page)
    ann.answer(asked.id, fields=again)
    assert world.get(asked.id).status is ApprovalStatus.APPROVED


def test_what_changes_on_the_way_to_the_provider_counts_too(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask(quorum=2)
    held = ann.send(asked.id, reason="Before ben said no.")
    world.surfer("ben").answer(asked.id, "reject", reason="No.")
    page = ann.follow(held)
    assert page.status_code == 409
    assert "rejected with 1" in page.text
    assert refusals(world, asked.id) == ["STALE_FORM"]


def test_a_second_answer_is_refused(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask(quorum=2)
    ann.answer(asked.id)
    page = ann.answer(asked.id)
    assert page.status_code == 409
    assert "answered this request already" in page.text
    assert len(world.get(asked.id).answers) == 1
    assert any("already" in why for why in refusals(world, asked.id))


def test_a_proof_answers_once(world: PagesWorld, ann: Surfer) -> None:
    asked = world.ask(quorum=2)
    ann.answer(asked.id)
    arrived = [u for u in ann.visited if "/sign-in/arrived" in u][-1]
    assert ann.client.get(arrived).status_code == 403
    assert len(world.get(asked.id).answers) == 1


def test_nobody_answers_their_own_request(world: PagesWorld) -> None:
    asked = world.ask(who=world.person("ann", OWNERS))
    ann = world.surfer("ann")
    page = ann.get(f"/approvals/{asked.id}")
    assert 'value="approve"' not in page.text
    refused = ann.answer(asked.id, "approve")  # by a form made by hand
    assert refused.status_code == 409
    assert "own request" in refused.text
    assert not world.get(asked.id).answers


@pytest.mark.parametrize("reason", ["", "   \n ", "x" * 4001])
def test_an_answer_needs_a_reason_of_some_length(
    world: PagesWorld, ann: Surfer, reason: str
) -> None:
    asked = world.ask()
    page = ann.send(asked.id, reason=reason)
    assert page.status_code == 400
    assert "Not recorded" in page.text
    assert not world.get(asked.id).answers


def test_what_one_may_not_see_one_cannot_answer(world: PagesWorld) -> None:
    asked = world.ask()
    eve = world.surfer("eve")
    own = world.ask("DELETE FROM other", who=world.person("eve", "ml-agents"))
    fields = eve.form(eve.get(f"/approvals/{own.id}"))
    page = eve.send(asked.id, fields=fields)
    assert page.status_code == 404
    assert refusals(world, asked.id) == ["NO_SUCH_APPROVAL"]
    missing = eve.send("apr_00000000000000000000", fields=fields)
    assert missing.text.replace("apr_00000000000000000000", asked.id) == page.text


def test_an_answer_may_be_begun_and_ended_at_different_replicas(world: PagesWorld) -> None:
    (port,) = new_ports(1)
    here = world.settings
    there = here.model_copy(
        update={"gateway": here.gateway.model_copy(
            update={"port": port, "replica": "other", "public_url": world.url})}
    )  # fmt: skip
    asked = world.ask()
    ann = world.surfer("ann")
    fields = ann.form(ann.get(f"/approvals/{asked.id}"))
    with gateway(there):
        held = ann.client.post(
            f"http://127.0.0.1:{port}/approvals/{asked.id}",
            data={**fields, "do": "approve", "reason": "fine"},
            headers={"sec-fetch-site": "same-origin"},
        )
    ann.follow(held)  # the provider sends the browser back to the first one
    assert world.get(asked.id).status is ApprovalStatus.APPROVED


def test_refused_answers_do_not_fill_the_log(tmp_path: Path) -> None:
    settings = {"sign_in": {"failures_per_minute": 0, "logged_per_minute": 3}}
    with pages_world("oidc", tmp_path, **settings) as made:
        asked = made.ask()
        with httpx.Client() as client:
            for _ in range(12):
                client.post(f"{made.url}/approvals/{asked.id}", data={"do": "approve"})
        assert len(made.log("approval.answer_refused")) == 3


def test_a_held_answer_is_taken_once_and_in_time(world: PagesWorld) -> None:
    pending = PendingAnswers(world.gateway.store)
    pending.put("a" * 64, {"do": "approve"}, 60)
    assert pending.take("a" * 64) == {"do": "approve"}
    assert pending.take("a" * 64) is None
    pending.put("b" * 64, {"do": "approve"}, -1)
    assert pending.take("b" * 64) is None
