"""Snowflake's own histories against the log: what ran or signed in there and is not on record here, and the reverse.

A statement is explained by its query tag, which names the entry that was durable before it ran, or by its query id
in the entry of how it ended. A tag alone proves nothing, for anybody can write one: text, user and session must be
those of the entry, and an entry explains one query.

Nothing of a statement's text is told on: what is unexplained is named by its query id.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hoop_core.audit.explaining import OBSERVER_SESSION, Intent, LogSide, Minted
from hoop_core.audit.histories import (
    DESCRIBED,
    OBSERVED,
    RanQuery,
    SignedIn,
    iso,
    text_digest,
)
from hoop_core.config import AllowedUser, ReconcileSettings
from hoop_core.model import Json

_TAG = re.compile(
    r"hoop:(?P<session>[A-Za-z0-9_-]{1,64}):(?P<statement>[^\s:]{1,128}):(?P<seq>[0-9]{1,18})( |\Z)"
)
MOST_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something unexplained; `examples` are query ids, events or sequence numbers, the first ones."""

    kind: str
    user: str
    why: str
    count: int
    first: datetime
    last: datetime
    examples: tuple[str, ...]

    def with_more(self, later: Finding) -> Finding:
        """The same thing, found again later."""
        return replace(
            self,
            count=self.count + later.count,
            last=later.last,
            examples=(self.examples + later.examples)[:MOST_EXAMPLES],
        )

    def as_json(self) -> Json:
        return {
            "what": self.kind,
            "user": self.user,
            "why": self.why,
            "count": self.count,
            "first": iso(self.first),
            "last": iso(self.last),
            "examples": list(self.examples),
        }


@dataclass(frozen=True, slots=True)
class Compared:
    """What one account's span [begin, end) came to."""

    account: str
    begin: datetime
    end: datetime
    settled: bool
    counts: Mapping[str, int]
    allowed: tuple[Json, ...]
    findings: tuple[Finding, ...]

    def as_json(self) -> Json:
        return {
            "account": self.account,
            "from": iso(self.begin),
            "to": iso(self.end),
            "settled": self.settled,
            "counts": dict(self.counts),
            "allowed": list(self.allowed),
            "unexplained": [f.as_json() for f in self.findings],
        }


@dataclass(slots=True)
class _Found:
    """Findings as they come, put together by kind, user and reason."""

    groups: dict[tuple[str, str, str], list[tuple[datetime, str]]] = field(default_factory=dict)

    def add(self, kind: str, user: str, why: str, at: datetime, example: str) -> None:
        self.groups.setdefault((kind, user, why), []).append((at, example))

    def findings(self) -> tuple[Finding, ...]:
        made = []
        for (kind, user, why), hits in self.groups.items():
            hits.sort()
            examples = tuple(example for _, example in hits[:MOST_EXAMPLES])
            made.append(Finding(kind, user, why, len(hits), hits[0][0], hits[-1][0], examples))
        return tuple(sorted(made, key=lambda f: (f.first, f.kind, f.user)))


class Comparison:
    """One account and span. `log` is what Hoop knows, `minted` the users that it had."""

    def __init__(
        self,
        account: str,
        begin: datetime,
        end: datetime,
        *,
        log: LogSide,
        minted: Iterable[Minted],
        settings: ReconcileSettings,
        prefix: str = "",
    ) -> None:
        self._account, self._begin, self._end = account, begin, end
        self._log, self._settings, self._prefix = log, settings, prefix.upper()
        self._minted = {m.user: m for m in minted}
        self._clocks = timedelta(seconds=settings.clocks_seconds)
        self._networks = [ipaddress.ip_network(a) for a in settings.addresses]
        self._found = _Found()
        self._counts: Counter[str] = Counter()
        self._allowed: Counter[tuple[AllowedUser, str]] = Counter()
        self._explained: dict[int, str] = {}

    def run(
        self,
        queries: Sequence[RanQuery],
        logins: Sequence[SignedIn],
        late: Collection[str],
        *,
        settled: bool,
    ) -> Compared:
        """`queries` and `logins` may begin before the span. `late` are ids of queries that Snowflake was asked for one by one."""
        for query in queries:
            if self._begin <= query.ended < self._end:
                self._counts["queries"] += 1
                self._query(query)
        self._ended_entries(queries, late, settled=settled)
        self._logins(logins)
        self._leases(logins, settled=settled)
        self._orphans()
        return Compared(
            self._account,
            self._begin,
            self._end,
            settled,
            dict(self._counts),
            tuple(
                {"user": rule.user, "reason": rule.reason, what: count}
                for (rule, what), count in self._allowed.items()
            ),
            self._found.findings(),
        )

    # ------------------------------------------------------------------ statements

    def _query(self, query: RanQuery) -> None:
        lease = self._minted.get(query.user)
        if lease is None:
            self._not_minted(query)
            return
        why = self._unexplained(query, lease)
        if why is None:
            return
        kind, said = why
        self._found.add(kind, query.user, said, query.ended, query.query_id)

    def _not_minted(self, query: RanQuery) -> None:
        rule = self._allowing(query.user)
        if rule is not None and (not rule.types or query.kind in rule.types):
            self._allowed[rule, "statements"] += 1
            return
        if self._looks_minted(query.user):
            kind, why = "user.without_lease", "bears the name of a minted user and has no lease"
        elif rule is not None:
            kind, why = (
                "statement.unmediated",
                f"is allowed other statements only, not {query.kind}",
            )
        else:
            kind, why = "statement.unmediated", "did not come through Hoop"
        self._found.add(kind, query.user, why, query.ended, query.query_id)

    def _unexplained(self, query: RanQuery, lease: Minted) -> tuple[str, str] | None:
        """Why a query of a minted user is not on record; None when it is."""
        named = _TAG.match(query.tag)
        intent = self._log.intent(int(named["seq"])) if named else None
        if named and intent is not None:
            why = self._not_that(query, lease, intent, named["session"], named["statement"])
            if why is None:
                return self._counted_once(query, intent)
        else:
            why = "has no tag of Hoop's" if named is None else "its tag names no entry"
        if self._own(query, lease):
            self._counts["own"] += 1
            return None
        return "statement.unlogged", why

    def _counted_once(self, query: RanQuery, intent: Intent) -> tuple[str, str] | None:
        ended = self._log.query_id(intent)
        first = self._explained.setdefault(intent.seq, query.query_id)
        if first != query.query_id or (ended and ended != query.query_id):
            return "statement.repeated", "ran beside the query that its entry is about"
        self._counts["explained"] += 1
        return None

    def _not_that(
        self, query: RanQuery, lease: Minted, intent: Intent, session: str, statement: str
    ) -> str | None:
        """What of the query is not as its entry says."""
        if intent.session != session or not lease.served(session):
            return "its tag names an entry of another session"
        if intent.pruned:
            return None
        if intent.statement != statement:
            return "its tag names an entry of another statement"
        if intent.user and intent.user != query.user:
            return "its tag names an entry of another user"
        if text_digest(intent.executed) != query.text_sha256:
            return "its text is not the one of its entry"
        return None

    def _own(self, query: RanQuery, lease: Minted) -> bool:
        """Hoop's own small statements: descriptions, lists, plans. They read no row."""
        if query.text_sha256 != text_digest(query.beginning):
            return False  # longer than what is shown, or not what it seems
        if lease.served(OBSERVER_SESSION):
            return any(form.fullmatch(query.beginning) for form in OBSERVED)
        if DESCRIBED.fullmatch(query.beginning):
            return True
        return self._log.explaining(lease.sessions, query.text_sha256)

    def _ended_entries(
        self, queries: Iterable[RanQuery], late: Collection[str], *, settled: bool
    ) -> None:
        """Statements that ran by the log, and of which Snowflake knows nothing."""
        known = {q.query_id for q in queries} | set(late)
        for ended in self._log.endings:
            self._counts["entries"] += 1
            if ended.query_id in known:
                continue
            if not settled:
                self._counts["too_recent"] += 1
                continue
            why = "ran by the log, and Snowflake knows no such query"
            self._found.add("entry.without_query", ended.user, why, ended.at, f"entry {ended.seq}")

    # ------------------------------------------------------------------ logins and leases

    def _logins(self, logins: Iterable[SignedIn]) -> None:
        seen: Counter[str] = Counter()
        for login in sorted(logins, key=lambda x: (x.at, x.event)):
            if login.success:
                seen[login.user] += 1
            if not self._begin <= login.at < self._end:
                continue
            self._counts["logins" if login.success else "failed_logins"] += 1
            if login.success:
                self._login(login, seen[login.user])

    def _login(self, login: SignedIn, number: int) -> None:
        lease = self._minted.get(login.user)
        if lease is None:
            rule = self._allowing(login.user)
            if rule is not None:
                self._allowed[rule, "logins"] += 1
            elif self._looks_minted(login.user):
                why = "bears the name of a minted user and has no lease"
                self._found.add("user.without_lease", login.user, why, login.at, login.event)
            else:
                why = "did not come through Hoop"
                self._found.add("login.unmediated", login.user, why, login.at, login.event)
            return
        for kind, why in self._wrong_login(login, lease, number):
            self._found.add(kind, login.user, why, login.at, login.event)

    def _wrong_login(
        self, login: SignedIn, lease: Minted, number: int
    ) -> Iterable[tuple[str, str]]:
        over = lease.gone or lease.expires
        if not lease.created - self._clocks <= login.at <= over + self._clocks:
            yield "login.outside_lease", "signed in when its lease was over"
        if number > 1:
            yield "login.repeated", "signed in more than once with one lease"
        if self._networks and not self._from_here(login.address):
            yield "login.elsewhere", f"signed in from {_shown(login.address)}"

    def _from_here(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address.strip())
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def _leases(self, logins: Iterable[SignedIn], *, settled: bool) -> None:
        came = {login.user for login in logins if login.success}
        for lease in self._minted.values():
            if lease.gone is None or not self._begin <= lease.gone < self._end:
                continue
            self._counts["leases"] += 1
            if not self._log.minting(lease):
                why = "has a lease in the store, and none in the log"
                self._found.add("lease.unlogged", lease.user, why, lease.created, lease.lease_id)
            if lease.user in came:
                continue
            if not self._log.ran_as(lease):
                self._counts["unused_leases"] += 1
            elif settled:
                why = "ran statements by the log, and Snowflake knows no login"
                self._found.add(
                    "lease.without_login", lease.user, why, lease.created, lease.lease_id
                )

    def _orphans(self) -> None:
        for seq, at, user in self._log.orphans:
            why = "was found in Snowflake without a lease"
            self._found.add("user.without_lease", user, why, at, f"entry {seq}")

    # ------------------------------------------------------------------ who may

    def _allowing(self, user: str) -> AllowedUser | None:
        for rule in self._settings.allowed:
            here = not rule.account or rule.account.upper() == self._account
            if here and fnmatch.fnmatchcase(
                user, rule.user.replace("[", "[[]").replace("?", "[?]")
            ):
                return rule
        return None

    def _looks_minted(self, user: str) -> bool:
        return bool(self._prefix) and user.upper().startswith(self._prefix)


def _shown(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address.strip()))
    except ValueError:
        return "an address that is none"
