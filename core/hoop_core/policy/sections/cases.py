"""`cases`: assertions kept beside the policy, run by `hoop policy test`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from hoop_core.model import Identity, NameContext, Outcome, RunContext
from hoop_core.policy.conditions import FIELDS
from hoop_core.policy.model import Expectation, PolicyCase
from hoop_core.policy.reasons import CODES, known
from hoop_core.policy.sections.common import word
from hoop_core.sql.names import parse_parts, stored
from hoop_core.yaml_reader import Fields, Value

KEYS = (
    "name", "sql", "groups", "subject", "claims", "account", "database", "schema", "run", "at",
    "expect", "reason", "masked", "filtered", "rewritten_contains",
)  # fmt: skip
RUN_KEYS = FIELDS["run"]


def case_reader() -> Callable[[Value], PolicyCase]:
    """Reads the cases of one policy, whose names are its own."""
    return partial(_case, names=set())


def _case(value: Value, names: set[str]) -> PolicyCase:
    f = value.mapping("a case", KEYS, ("name", "sql", "expect"))
    name = f["name"].text("`name`")
    if name in names:
        raise f["name"].wrong(f"two cases are named `{name}`.")
    names.add(name)
    return PolicyCase(
        name=name,
        sql=f["sql"].text("`sql`"),
        identity=_caller(f),
        names=NameContext(
            *(stored(f[k].text(k)) if k in f else None for k in ("database", "schema"))
        ),
        run=_run(f["run"]) if "run" in f else RunContext(),
        expected=_expected(f),
        at=_at(f["at"]) if "at" in f else None,
        account=f["account"].text("`account`") if "account" in f else "",
        line=value.line,
    )


def _caller(f: Fields) -> Identity:
    subject = f["subject"].text("`subject`") if "subject" in f else "case"
    groups = (
        tuple(v.text("a group") for v in f["groups"].items("`groups`")) if "groups" in f else ()
    )
    claims = f["claims"].entries("`claims`") if "claims" in f else {}
    return Identity(
        issuer="policy case",
        subject=subject,
        name=subject,
        groups=tuple(sorted(set(groups))),
        method="case",
        token_digest="",
        claims={name: _claim(value) for name, (_, value) in claims.items()},
    )


def _claim(value: Value) -> str | tuple[str, ...]:
    if isinstance(value.data, list):
        return tuple(v.text("a value of a claim") for v in value.items("a claim"))
    return value.text("a claim")


def _run(value: Value) -> RunContext:
    f = value.mapping("`run`", RUN_KEYS)
    given = {key: v.text(f"`{key}`") for key, v in f.items()}
    return RunContext(given.pop("orchestrator", ""), given)


def _at(value: Value) -> datetime:
    data = value.data
    if isinstance(data, str):
        try:
            data = datetime.fromisoformat(data)
        except ValueError:
            data = None
    if not isinstance(data, datetime):
        raise value.wrong("`at` must be a time: 2026-03-02T10:00:00Z.")
    return data if data.tzinfo else data.replace(tzinfo=UTC)


def _expected(f: Fields) -> Expectation:
    outcome = Outcome(word(f["expect"], "`expect`", [o.value for o in Outcome], kind="outcome"))
    if outcome is Outcome.DENY:
        for key in ("masked", "filtered", "rewritten_contains"):
            if key in f:
                raise f[key].wrong(f"`{key}` has no meaning where the statement is denied.")
    return Expectation(
        outcome=outcome,
        reason=_reason(f["reason"]) if "reason" in f else None,
        masked=_endings(f["masked"], "`masked`", 4) if "masked" in f else None,
        filtered=_endings(f["filtered"], "`filtered`", 3) if "filtered" in f else None,
        rewritten_contains=f["rewritten_contains"].texts("`rewritten_contains`")
        if "rewritten_contains" in f
        else (),
    )


def _reason(value: Value) -> str:
    code = value.text("`reason`")
    if not known(code):
        raise value.unknown("reason", code, CODES)
    return code


def _endings(value: Value, what: str, most: int) -> tuple[tuple[str, ...], ...]:
    """Names with as many of their last parts as one likes; an empty list expects none."""
    found = []
    for item in value.items(what):
        parts = parse_parts(item.text(f"a name in {what}"))
        if parts is None or not 1 <= len(parts) <= most or "*" in parts:
            raise item.wrong(
                f"`{item.data}` is not a name.", "Write EMAIL, or PROD.CRM.CUSTOMERS.EMAIL."
            )
        found.append(parts)
    return tuple(found)
