"""Masking exceptions as standing grants: what they are bound to, and what they change in a verdict.

An exception holds for one identity in one Snowflake role under one policy, until its time is over or it
is revoked. It shows columns; it lifts no row filter and lets nothing be written elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from hoop_core.approvals.approval import Approval
from hoop_core.approvals.binding import digest
from hoop_core.model import (
    AnswerVerdict,
    ApprovalTerms,
    Decision,
    Identity,
    Json,
    MaskedColumn,
    Outcome,
    Reason,
    RoleBinding,
    TableName,
)
from hoop_core.policy.exceptions import ColumnName, Offer, parse_column
from hoop_core.policy.model import Policy
from hoop_core.spans import in_words

KIND = "masking_exception"


@dataclass(frozen=True, slots=True)
class ExceptionBinding:
    """What an exception is given for. Another policy, account, role or group membership makes another
    scope.
    """

    identity: Identity
    role: RoleBinding
    policy: Policy
    columns: tuple[ColumnName, ...]
    span: timedelta
    account: str = ""

    def terms(self, offered: Offer) -> ApprovalTerms:
        """What the policy offers, for as long as was asked."""
        return dataclasses.replace(offered.terms, valid_for=self.span)

    @property
    def scope(self) -> str:
        return scope_of(self.identity, self.role, self.policy, self.account)

    @property
    def digest(self) -> str:
        return digest(
            {
                "kind": KIND,
                "scope": self.scope,
                "columns": sorted(map(str, self.columns)),
                "seconds": int(self.span.total_seconds()),
            }
        )


def scope_of(identity: Identity, role: RoleBinding, policy: Policy, account: str) -> str:
    """SHA-256 (hex) of everything that must still be so when an exception is used.

    Which masks bind the caller is part of it: who loses an `except_groups` membership would otherwise
    see a column past a mask that nobody was asked about.
    """
    binding = policy.masks_binding(identity)
    return digest(
        {
            "kind": KIND,
            "identity": identity.key,
            "actors": list(identity.actors),
            "account": account,
            "snowflake_role": role.snowflake_role,
            "policy": policy.digest,
            "masks": [number for number, m in enumerate(policy.masks) if m in binding],
        }
    )


def question(bound: ExceptionBinding, requester: Json, reason: str, offered: Offer) -> Json:
    """What approvers are asked. It has the keys of a question about a statement, and its own."""
    wanted = ", ".join(f"{ColumnName(m.table, m.column)} ({m.mask})" for m in offered.masked)
    terms = offered.terms
    message = (
        f"needs approval by {terms.quorum} of {', '.join(terms.approvers)}: wants to see {wanted} "
        f"unmasked for {in_words(bound.span)}"
    )
    return {
        "kind": KIND,
        "requester": requester,
        "session_id": None,
        "run": {"orchestrator": "", "fields": {}},
        "account": bound.account,
        "snowflake_role": bound.role.snowflake_role,
        "columns": [str(c) for c in bound.columns],
        "seconds": int(bound.span.total_seconds()),
        "reason": reason,
        "masked": [
            {"table": str(m.table), "column": m.column, "mask": m.mask} for m in offered.masked
        ],
        "reads": sorted({str(c.table) for c in bound.columns}),
        "writes": [],
        "reasons": [{"code": "APPROVAL_REQUIRED", "message": message}],
        "rules": [],
        "sql": "",
        "rewritten": None,
        "parameters": None,
        "policy_digest": bound.policy.digest,
        "fingerprint": None,
    }


@dataclass(frozen=True, slots=True)
class Shown:
    """The grant that shows a column: who approved it, and until when it holds (ISO 8601, seconds)."""

    id: str
    approved_by: tuple[str, ...]
    until: str

    @classmethod
    def by(cls, grant: Approval) -> Shown:
        until = grant.valid_until
        return cls(
            grant.id,
            tuple(
                str(a["approver"]["name"])
                for a in grant.answers
                if a["verdict"] == AnswerVerdict.APPROVE
            ),
            "" if until is None else until.isoformat(timespec="seconds"),
        )


@dataclass(frozen=True, slots=True)
class InForce:
    """The exceptions that hold for one caller at one moment, by column."""

    grants: Mapping[tuple[TableName, str], Shown] = field(default_factory=dict)

    @classmethod
    def of(cls, standing: Sequence[Approval]) -> InForce:
        """Where several grants show a column, the one that lasts longest is named."""
        found: dict[tuple[TableName, str], Shown] = {}
        for grant in sorted(standing, key=lambda a: (a.valid_until or a.created_at, a.id)):
            for text in grant.body["columns"]:
                name = parse_column(text)
                if name is not None:
                    found[name.table, name.column] = Shown.by(grant)
        return cls(found)

    @classmethod
    def from_json(cls, told: Sequence[Json]) -> InForce:
        """As `as_json` told it. Raises ValueError, KeyError or TypeError for anything else."""
        found: dict[tuple[TableName, str], Shown] = {}
        for one in told:
            name = parse_column(one["column"])
            if name is None:
                raise ValueError("no column")
            by = tuple(map(str, one["approved_by"]))
            found[name.table, name.column] = Shown(str(one["approval"]), by, str(one["until"]))
        return cls(found)

    def as_json(self) -> list[Json]:
        """For the log: what the judge was told, and what its reasons name."""
        return [
            {
                "column": str(ColumnName(*column)),
                "approval": grant.id,
                "approved_by": list(grant.approved_by),
                "until": grant.until,
            }
            for column, grant in sorted(self.grants.items(), key=lambda item: item[0])
        ]

    @property
    def columns(self) -> frozenset[tuple[TableName, str]]:
        """What judging is told."""
        return frozenset(self.grants)

    def named_in(self, decision: Decision) -> Decision:
        """The decision with the exceptions that it rests on: their ids, who approved, until when."""
        if decision.outcome is Outcome.DENY:
            return decision
        exposed = tuple(
            m
            if (grant := self.grants.get((m.table, m.column))) is None
            else dataclasses.replace(m, exception=grant.id)
            for m in decision.exposed
        )
        reasons = (*decision.reasons, *self._shown(exposed), *self._not_shown(decision.masked))
        return dataclasses.replace(decision, exposed=exposed, reasons=reasons)

    def _not_shown(self, masked: Sequence[MaskedColumn]) -> list[Reason]:
        kept = [str(ColumnName(*at)) for m in masked if (at := (m.table, m.column)) in self.grants]
        message = (
            f"masked all the same: {', '.join(kept)}; an exception shows values to a SELECT and lets "
            "nothing be written"
        )
        return [Reason("EXCEPTION_NOT_APPLIED", message)] if kept else []

    def _shown(self, exposed: Sequence[MaskedColumn]) -> list[Reason]:
        used = {m.exception: self.grants[m.table, m.column] for m in exposed if m.exception}
        return [
            Reason(
                "MASKING_EXCEPTION",
                f"shown: {_columns(exposed, grant.id)} by masking exception {grant.id}, approved by "
                f"{', '.join(grant.approved_by)} until {grant.until}",
            )
            for grant in used.values()
        ]


NONE = InForce()


def used_by(decision: Decision) -> tuple[str, ...]:
    """The ids of the exceptions that a decision rests on."""
    return tuple(sorted({m.exception for m in decision.exposed if m.exception}))


def _columns(exposed: Sequence[MaskedColumn], grant: str) -> str:
    return ", ".join(str(ColumnName(m.table, m.column)) for m in exposed if m.exception == grant)
