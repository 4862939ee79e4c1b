"""What the log, the approvals and the command line say about sessions, statements and decisions.

One place, so that the same thing has the same JSON everywhere.
"""

from __future__ import annotations

import hashlib

from hoop_core.approvals.approval import Approval
from hoop_core.approvals.binding import digest
from hoop_core.errors import HoopError, SnowflakeError
from hoop_core.model import Decision, Identity, Json, Lease, RunContext, Verdict, quote_part
from hoop_core.session.basis import Basis
from hoop_core.session.guarded import GuardedSession, QueryRequest, meaning_of
from hoop_core.sql.limits import DEFAULT

_BEGINNING = 2_000
"""Characters that are kept of a text that nobody reads."""
_MOST_SOURCES = 2_000
"""Columns and their sources that an intent names: what a wide table and `SELECT *` come to."""


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def person_json(identity: Identity) -> Json:
    """Who, for people: what an approver sees."""
    return {
        "issuer": identity.issuer,
        "subject": identity.subject,
        "name": identity.name,
        "groups": list(identity.groups),
        "actors": list(identity.actors),
    }


def identity_json(identity: Identity) -> Json:
    """Who, for evidence: with how it was proven. The token itself is never kept."""
    return person_json(identity) | {
        "method": identity.method,
        "token_sha256": identity.token_digest,
        "claims": {k: v if isinstance(v, str) else list(v) for k, v in identity.claims.items()},
    }


def run_json(run: RunContext) -> Json:
    return {"orchestrator": run.orchestrator, "fields": dict(run.fields)}


def error_json(error: HoopError) -> Json:
    """An error as evidence. Snowflake's own words may quote values, so only their code is kept."""
    known: Json = {"reason": error.reason, "errno": error.errno}
    return known if isinstance(error, SnowflakeError) else known | {"message": error.message}


def asked_json(session: GuardedSession, request: QueryRequest) -> Json:
    """Who asked what, from where: the head of every entry about a statement."""
    return {
        "statement_id": request.statement_id,
        "identity": identity_json(session.identity),
        "run_asserted": run_json(session.run),
        "account": session.account,
        "snowflake_role": session.role.snowflake_role,
        "database": session.names.database,
        "schema": session.names.schema,
        **_asked_sql(request.sql),
        "settings": meaning_of(session.parameters, request.parameters),
        "autocommit": str(session.parameters.get("AUTOCOMMIT", True)).lower(),
        "parameters_sha256": digest(request.bindings) if request.bindings else None,
        "describe_only": request.describe_only,
        **({"counted_for": request.counted_for} if request.counted_for else {}),
    }


def _asked_sql(sql: str) -> Json:
    """The text to its last character, save of one that is refused unread for its length: else a few small
    packed requests would fill the log, and a log that is full stops everybody.
    """
    told: Json = {"sql": sql, "sql_sha256": sha256(sql)}
    if len(sql) > DEFAULT.max_chars:
        told |= {"sql": sql[:_BEGINNING], "sql_characters": len(sql)}
    return told


def bound_values(bindings: Json | None) -> list[Json] | None:
    """What is bound where, in the order of the placeholders, as an approver reads it."""
    if not bindings:
        return None
    names = sorted(bindings, key=lambda n: (0, int(n), "") if n.isdecimal() else (1, 0, n))
    return [{**bindings[n], "position": n} for n in names]


def judged_json(basis: Basis) -> Json:
    """What was decided on a statement that was refused all the same, or for it. The text that it would have become
    stands in the question to its approvers, where there is one; here is its SHA-256.
    """
    rewritten = basis.rewritten
    return {
        "decision": decision_json(basis.decision),
        "rewritten_sha256": None if rewritten is None else sha256(rewritten),
    }


def grant_json(grant: Approval) -> Json:
    """What a statement was let run by, with the answers; the question itself is in the log."""
    told = grant.as_json()
    kept = ("id", "kind", "status", "requester", "approvers", "quorum", "answers", "emergency", "uses",
            "created_at", "valid_until")  # fmt: skip
    return {key: told.get(key) for key in kept}


def lease_json(lease: Lease) -> Json:
    """The minted user, without anything that opens a door."""
    return {
        "lease_id": lease.lease_id,
        "snowflake_user": lease.snowflake_user,
        "snowflake_role": lease.role.snowflake_role,
        "vault_role": lease.role.vault_role,
        "account": lease.account,
        "public_key_fingerprint": lease.public_key_fingerprint,
        "created_at": lease.created_at.isoformat(),
        "expires_at": lease.expires_at.isoformat(),
    }


def decision_json(decision: Decision) -> Json:
    return {
        "decision": str(decision.outcome),
        "reasons": [{"code": r.code, "message": r.message} for r in decision.reasons],
        "rules": list(decision.rules),
        "masked": [
            {"table": str(m.table), "column": m.column, "mask": m.mask} for m in decision.masked
        ],
        "exposed": [
            {
                "table": str(m.table),
                "column": m.column,
                "mask": m.mask,
                "exception": m.exception,
            }
            for m in decision.exposed
        ],
        "filtered": [{"table": str(f.table), "where": f.where} for f in decision.filtered],
        "policy_digest": decision.policy_digest,
    }


def used_first(masked: list[Json], verdict: Verdict) -> list[Json]:
    """The masked columns for an approver: those that the statement reads first; `used` is null where the
    columns read of a table are not known.
    """
    read = {str(table): set(columns) for table, columns in verdict.columns}
    named = [
        {**m, "used": m["column"] in read[m["table"]] if m["table"] in read else None}
        for m in masked
    ]
    return sorted(named, key=lambda m: m["used"] is False)


def statement_json(verdict: Verdict) -> Json:
    statement = verdict.statement
    return {
        "kind": str(statement.kind) if statement else None,
        "reads": [str(t) for t in statement.reads] if statement else [],
        "writes": [str(t) for t in statement.writes] if statement else [],
        "fingerprint": statement.fingerprint if statement else None,
    }


def lineage_json(verdict: Verdict) -> list[Json] | None:
    """What each column that is returned or written is computed from; None where nothing is.

    `sources` are columns as DATABASE.SCHEMA.TABLE.COLUMN. Where there are very many, the rest is `unknown`, which
    means: assume every column that the statement reads.
    """
    room = _MOST_SOURCES
    told: list[Json] = []
    for column in verdict.lineage:
        room -= len(column.sources) + 1
        if room < 0:
            told.append({"output": "*", "sources": None, "unknown": True})
            break
        sources = None if column.unknown else [f"{t}.{quote_part(c)}" for t, c in column.sources]
        told.append({"output": column.output, "sources": sources, "unknown": column.unknown})
    return told or None
