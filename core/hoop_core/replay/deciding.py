"""One entry about a statement, and the verdict on it: from what the entry says and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from hoop_core.analysts.cache import UNSTABLE
from hoop_core.approvals.exceptions import InForce
from hoop_core.errors import ConfigError, HoopError
from hoop_core.judge import judging
from hoop_core.model import Identity, Json, NameContext, RunContext, TableName, Verdict
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy
from hoop_core.replay.evidence import Known
from hoop_core.sql.catalog import Catalog, CatalogObject


class NotReplayable(Exception):
    """Why an entry does not say enough; `fault` where it should."""

    def __init__(self, why: str, *, fault: bool = True) -> None:
        self.why, self.fault = why, fault
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an entry `statement.intent` or `statement.refused` says was decided from."""

    entry: Json
    sql: str
    names: NameContext
    identity: Identity
    run: RunContext
    now: datetime
    account: str
    policy: Policy
    """Narrowed to the account."""
    exceptions: InForce
    catalog: Mapping[str, CatalogObject | None]

    @property
    def data(self) -> Json:
        found: Json = self.entry["data"]
        return found


def recorded(entry: Json, known: Known) -> Recorded:
    """Raises NotReplayable."""
    data = entry["data"]
    if data is None:
        raise NotReplayable("its body is not kept any more", fault=False)
    if "decision" not in data:
        raise NotReplayable(f"refused before it was decided: {data.get('reason')}", fault=False)
    reasons = data["decision"].get("reasons") or [{}]
    if str(reasons[0].get("code")) in UNSTABLE:
        raise NotReplayable(f"its analysis broke off: {reasons[0]['code']}", fault=False)
    if "sql_characters" in data:
        raise NotReplayable("its text is too long to be in the log", fault=False)
    if "judged_sql_sha256" in data:
        raise NotReplayable("bound values stand in its text, which is not in the log", fault=False)
    if "now" not in data:
        raise NotReplayable("it was logged by a version that did not say what was decided from")
    try:
        return _recorded(entry, known)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        raise NotReplayable(f"it is not of the form it must have ({type(e).__name__})") from None


def _recorded(entry: Json, known: Known) -> Recorded:
    data = entry["data"]
    digest = str(data["decision"]["policy_digest"])
    text = known.policies.get(digest)
    if text is None:
        raise NotReplayable(f"the policy {digest} is not in the log")
    policy = _policy(text)
    if policy is None or policy.digest != digest:
        raise NotReplayable(f"the policy {digest} cannot be read by this version of Hoop")
    who, run = data["identity"], data["run_asserted"]
    return Recorded(
        entry=entry,
        sql=str(data.get("judged_sql", data["sql"])),
        names=NameContext(data["database"], data["schema"]),
        identity=Identity(
            issuer=str(who["issuer"]),
            subject=str(who["subject"]),
            name=str(who["name"]),
            groups=tuple(map(str, who["groups"])),
            method=str(who["method"]),
            token_digest="",
            claims={
                str(k): v if isinstance(v, str) else tuple(map(str, v))
                for k, v in who["claims"].items()
            },
            actors=tuple(map(str, who["actors"])),
        ),
        run=RunContext(
            str(run["orchestrator"]), {str(k): str(v) for k, v in run["fields"].items()}
        ),
        now=datetime.fromisoformat(data["now"]),
        account=str(data["account"]),
        policy=policy.for_account(str(data["account"])),
        exceptions=InForce.from_json(data.get("exceptions_in_force") or ()),
        catalog=_catalog(data, known),
    )


def _catalog(data: Json, known: Known) -> dict[str, CatalogObject | None]:
    found: dict[str, CatalogObject | None] = {}
    sizes = data.get("sizes") or {}
    for name, digest in data["catalog"].items():
        if digest is None:
            found[name] = None
            continue
        described = known.objects.get(digest)
        if described is None:
            raise NotReplayable(f"what was believed of {name} is not in the log ({digest})")
        rows, size = sizes.get(name, (None, None))
        found[name] = replace(described, rows=rows, bytes=size)
    return found


@lru_cache(maxsize=64)
def _policy(text: str) -> Policy | None:
    try:
        return parse_policy(text, "the recorded policy")
    except ConfigError:
        return None


@dataclass(frozen=True, slots=True)
class Decided:
    """The verdict, with the exceptions named; `unknown` are objects of which the entry says nothing."""

    verdict: Verdict
    unknown: tuple[str, ...] = ()


Lookup = Callable[[TableName], CatalogObject | None]


def decide(
    given: Recorded, policy: Policy, *, exceptions: InForce, elsewhere: Lookup = lambda _table: None
) -> Decided:
    """Judge the statement. `elsewhere` knows objects that the entry does not name. Never raises HoopError."""
    conversation = judging(
        given.sql,
        given.names,
        identity=given.identity,
        policy=policy,
        run=given.run,
        now=given.now,
        exceptions=exceptions.columns,
    )
    found: dict[TableName, CatalogObject] = {}
    unknown: dict[str, None] = {}
    try:
        wanted = next(conversation)
        while True:
            for table in wanted:
                name = str(table)
                there = given.catalog.get(name)
                if name not in given.catalog:
                    there = elsewhere(table)
                    unknown |= {name: None} if there is None else {}
                if there is not None:
                    found[table] = there
            wanted = conversation.send(Catalog.of(found))
    except StopIteration as done:
        verdict: Verdict = done.value
    except HoopError as e:  # `judging` never raises one; were it to, it is no verdict
        raise NotReplayable(e.text) from None
    decision = exceptions.named_in(verdict.decision)
    return Decided(replace(verdict, decision=decision), tuple(unknown))
