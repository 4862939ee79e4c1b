"""The demo's claims. Each is checked by what can be seen from outside, and named when it fails."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hoop_core.audit.verify import Report
from hoop_core.client import Approval, ApprovalStatus
from hoop_core.demo.airflow import TASKS, AirflowResult
from hoop_core.demo.answers import OwnAnswer
from hoop_core.demo.behind import Login, Ran, RevokedKey

# What the vault role's username template makes, in upper case.
MINTED = re.compile(r"V_\S+\Z")
COLUMNS = (
    "CUSTOMER_ID",
    "EMAIL",
    "SSN",
    "CARD_NUMBER",
    "REGION",
    "SEGMENT",
    "MRR",
    "ORDERS",
    "REVENUE",
    "LAST_ORDER_AT",
)
PROTECTED = ("EMAIL", "SSN", "CARD_NUMBER")
OPEN = ("REGION", "SEGMENT", "MRR")


class ClaimFailed(Exception):
    """A claim of the demo did not hold; the text says what was seen instead."""


@dataclass(frozen=True, slots=True)
class Check:
    """One claim: `detail` is what was seen."""

    name: str
    claim: str
    passed: bool
    detail: str


def check(name: str, claim: str, look: Callable[[], str]) -> Check:
    """Run one look. Whatever it raises is a failed check, never a crash of the report."""
    try:
        return Check(name, claim, True, look())
    except ClaimFailed as e:
        return Check(name, claim, False, str(e))
    except Exception as e:
        return Check(name, claim, False, f"could not be looked at: {type(e).__name__}: {e}")


def require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ClaimFailed(otherwise)


@dataclass(frozen=True, slots=True)
class Seen:
    """One customer: what the agent got, and what the table holds."""

    agent: dict[str, object]
    table: dict[str, object]


def pair(
    result: AirflowResult, truth: Callable[[list[int]], dict[int, dict[str, object]]]
) -> list[Seen]:
    """Put the agent's rows beside the table's. Raises ClaimFailed when the agent got none."""
    rows = result.returned.get("look_at_customers") or []
    require(bool(rows), "the agent's query returned no rows")
    agent = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    held = truth([int(str(a["CUSTOMER_ID"])) for a in agent])
    return [Seen(a, held[int(str(a["CUSTOMER_ID"]))]) for a in agent]


def job_done(result: AirflowResult) -> str:
    bad = {t: result.tasks.get(t) for t in TASKS if result.tasks.get(t) != "success"}
    require(result.state == "success" and not bad, f"the run is {result.state}: {bad}")
    return f"{len(TASKS)} of {len(TASKS)} tasks succeeded"


def masked_for_the_agent(seen: list[Seen]) -> str:
    text = json.dumps([s.agent for s in seen], default=str)
    for s in seen:
        for column in PROTECTED:
            true = s.table[column]
            require(true is not None, f"{column} of the table is empty: nothing to protect")
            require(str(true) not in text, f"the agent got a true {column}")
        local, _, domain = str(s.table["EMAIL"]).partition("@")
        require(f"{local}@" not in text, "the agent got the name in an e-mail address")
        require(domain.lower() in str(s.agent["EMAIL"]).lower(), "the e-mail's domain is gone too")
    return f"{', '.join(PROTECTED)} masked in all {len(seen)} rows"


def the_rest_is_untouched(seen: list[Seen]) -> str:
    for s in seen:
        for column in OPEN:
            got, held = s.agent[column], s.table[column]
            same = str(got) == str(held) or _number(got) == _number(held) is not None
            require(same, f"{column}: the agent got {got!r}, the table holds {held!r}")
    return f"{', '.join(OPEN)} equal the table's"


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def features_written(customers: int, features: int, unmasked: int) -> str:
    require(features == customers, f"{features} rows for {customers} customers")
    require(unmasked == 0, f"{unmasked} rows hold a whole e-mail address")
    return f"{features:,} rows, none with an e-mail address"


def approved(approvals: Iterable[Approval], kind: str, quorum: int) -> str:
    """One used request of that kind, answered by enough persons other than the requester."""
    of_kind = [a for a in approvals if a.kind == kind]
    require(len(of_kind) == 1, f"{len(of_kind)} requests of kind {kind}")
    a = of_kind[0]
    require(a.status is ApprovalStatus.CONSUMED, f"{a.id} is {a.status}")
    require(
        a.quorum == quorum and a.missing == 0, f"{a.id} asks for {a.quorum}, {a.missing} missing"
    )
    who = {(p.approver.issuer, p.approver.subject) for p in a.answers}
    require(
        (a.requester.issuer, a.requester.subject) not in who,
        f"{a.id} was answered by its requester",
    )
    require(a.consumed_at is not None, f"{a.id} has no time of use")
    return f"answered by {' and '.join(p.approver.name for p in a.answers)}, used once"


def staging_cleared(before: int, after: int) -> str:
    require(before > 0, "the table was empty before")
    require(after == 0, f"{after} rows are left")
    return f"{before} rows, then none"


def four_eyes(tried: list[OwnAnswer]) -> str:
    require(bool(tried), "it was never tried")
    bad = [o for o in tried if not o.refused]
    require(not bad, "; ".join(f"{o.approval_id}: {o.text}" for o in bad))
    return f"{len(tried)} of {len(tried)} tries refused: {tried[0].text}"


def only_minted_users(logins: Iterable[Login], ran: Iterable[Ran], others: frozenset[str]) -> str:
    """`others` are the administrator of this look and the user by which Vault mints."""
    users = {e.user for e in logins if e.success} - others
    strangers = sorted(u for u in users if not MINTED.match(u))
    require(not strangers, f"signed in: {', '.join(strangers)}")
    mine = [r for r in ran if r.user not in others]
    foreign = sorted({r.user for r in mine if not MINTED.match(r.user)})
    require(not foreign, f"ran statements: {', '.join(foreign)}")
    for word in ("CREATE OR REPLACE TABLE", "MERGE", "DELETE"):
        require(any(word in r.text.upper() for r in mine), f"no minted user ran the {word}")
    return f"{len(users)} minted users signed in and ran {len(mine)} statements"


def gone(users: Iterable[str], logins: Iterable[Login], *, except_role: str = "") -> str:
    """None of the minted users exists any more (but the one that Hoop itself looks with)."""

    def counts(user: str) -> bool:
        return bool(MINTED.match(user)) and not (except_role and except_role in user)

    minted = {e.user for e in logins if counts(e.user)}
    require(bool(minted), "no minted user ever signed in")
    left = sorted(filter(counts, users))
    require(not left, f"still there: {', '.join(left)}")
    return f"SHOW USERS lists none of the {len(minted)} minted users"


def key_void(tried: RevokedKey) -> str:
    """A key opens Snowflake while its user exists, and not afterwards."""
    require(tried.opened_before, f"the key of {tried.user} never opened anything: no proof")
    require(bool(tried.refusal), f"the key of {tried.user} still opens Snowflake")
    return f"refused with {tried.refusal}"


def lineage_written(lines: Iterable[str]) -> str:
    """An OpenLineage run event tells that the feature table was written from customers and orders."""
    events = [json.loads(line) for line in lines if line.strip()]
    require(bool(events), "no event was written")
    for event in events:
        outputs = " ".join(str(o.get("name")) for o in event.get("outputs") or ())
        inputs = " ".join(str(i.get("name")) for i in event.get("inputs") or ())
        facets = [o.get("facets") or {} for o in event.get("outputs") or ()]
        if "CHURN_FEATURES" in outputs and "CUSTOMERS" in inputs and "ORDERS" in inputs:
            columns = any("columnLineage" in f for f in facets)
            require(columns, "the event has no column lineage")
            return f"{len(events)} run events, with column lineage"
    raise ClaimFailed("no event for the feature table")


def verified(report: Report) -> str:
    faults = "; ".join(f"{f.place}: {f.what}" for f in report.faults[:3])
    require(report.ok, faults)
    require(report.recordings > 0, "no recording is in the bundle")
    return f"{report.entries} entries, {report.recordings} recordings, root {report.root[:16]}…"
