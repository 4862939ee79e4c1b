"""SQL over the Parquet files, by DuckDB. The statement sees the views below, and nothing of this machine.

Files are read by Arrow, which the statement cannot speak to; DuckDB itself is left without files, network, extensions
and Python's variables, and without a way to change that (https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hoop_core.errors import ConfigError, Refused
from hoop_core.lake.files import Lake

if TYPE_CHECKING:
    import duckdb

_LOCKED = (
    "SET TimeZone = 'UTC'",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET python_enable_replacements = false",
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_VIEWS = {
    "entries": "SELECT * FROM entry_files",
    "results": "SELECT * FROM result_files",
    "statements": """
        SELECT i.seq, i.logged_at, i.day, i.session_id, i.statement_id, i.account, i.issuer, i.subject, i.name, i.groups,
            i.orchestrator, i.dag_id, i.task_id, i.run_id, i.snowflake_user, i.snowflake_role, i.statement_kind,
            i.reads, i.writes, i.sql, i.executed,
            CASE i.kind WHEN 'statement.intent' THEN 'allowed' ELSE 'refused' END AS verdict,
            i.decision, i.rules, i.masked, i.policy_digest, i.approval,
            coalesce(o.status, CASE i.kind WHEN 'statement.intent' THEN 'no outcome' ELSE 'refused' END) AS status,
            coalesce(o.reason, i.reason) AS reason, o.query_id, o.rows, o.logged_at AS ended_at, o.seq AS outcome_seq
        FROM entry_files i LEFT JOIN entry_files o ON o.kind = 'statement.outcome' AND o.intent = i.seq
        WHERE i.kind IN ('statement.intent', 'statement.refused') AND NOT i.pruned
    """,
    "approvals": """
        SELECT approval, min(logged_at) FILTER (WHERE kind = 'approval.requested') AS requested_at,
            any_value(name) FILTER (WHERE kind = 'approval.requested') AS requester,
            any_value(subject) FILTER (WHERE kind = 'approval.requested') AS requester_subject,
            any_value(account) FILTER (WHERE kind = 'approval.requested') AS account,
            any_value(statement_kind) FILTER (WHERE kind = 'approval.requested') AS statement_kind,
            any_value(sql) FILTER (WHERE kind = 'approval.requested') AS sql,
            list(name ORDER BY seq) FILTER (WHERE kind = 'approval.answered') AS approvers,
            max_by(coalesce(status, split_part(kind, '.', 2)), seq) FILTER (WHERE
                kind IN ('approval.answered', 'approval.withdrawn', 'approval.revoked', 'approval.drifted',
                    'approval.expired', 'approval.broken_glass')) AS outcome,
            max(logged_at) FILTER (WHERE kind IN ('approval.answered', 'approval.withdrawn', 'approval.revoked',
                'approval.drifted', 'approval.expired', 'approval.broken_glass')) AS decided_at,
            count(*) FILTER (WHERE kind = 'approval.broken_glass') > 0 AS broken_glass,
            min(seq) AS first_seq
        FROM entry_files WHERE kind LIKE 'approval.%' AND approval IS NOT NULL GROUP BY approval
    """,
    "credentials": """
        SELECT snowflake_user, any_value(account) AS account, any_value(snowflake_role) AS snowflake_role,
            max_by(session_id, seq) AS session_id,
            min(logged_at) FILTER (WHERE kind = 'credential.minted') AS minted_at,
            (max(data->>'expires_at') FILTER (WHERE kind = 'credential.minted'))::TIMESTAMPTZ AS expires_at,
            min(logged_at) FILTER (WHERE kind = 'credential.revoking') AS revoking_at,
            max(logged_at) FILTER (WHERE kind = 'credential.gone') AS gone_at,
            date_diff('millisecond', min(logged_at) FILTER (WHERE kind = 'credential.revoking'),
                max(logged_at) FILTER (WHERE kind = 'credential.gone')) / 1000.0 AS seconds_to_revoke,
            max(data->>'public_key_fingerprint') AS public_key_fingerprint,
            count(*) FILTER (WHERE kind = 'credential.orphan') > 0 AS orphan
        FROM entry_files WHERE kind LIKE 'credential.%' AND kind <> 'credential.minting'
            AND snowflake_user IS NOT NULL GROUP BY snowflake_user
    """,
}
VIEWS = tuple(_VIEWS)
_ASKING = frozenset({"SELECT", "EXPLAIN"})
"""DESCRIBE, SUMMARIZE and SHOW are SELECT to DuckDB."""


class QueryRefused(Refused):
    """A question that DuckDB does not take."""

    reason = "QUERY"


@dataclass(frozen=True, slots=True)
class Answer:
    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


class LakeQuery:
    """One connection. Raises ConfigError where DuckDB is not installed, StoreUnavailable for files."""

    def __init__(self, root: str) -> None:
        if not root:
            raise ConfigError(
                "lake.root is not set, so no Parquet files are written.",
                "Set it in hoop.toml: docs/queries.md.",
            )
        try:
            import duckdb  # noqa: PLC0415  an optional package
        except ImportError:
            raise ConfigError(
                "Queries need the package duckdb.",
                "Install Hoop with the extra `query`: pip install 'hoop-guard[query]'.",
            ) from None
        self._errors = duckdb.Error
        lake = Lake(root)
        self.empty = not lake.files("entries")
        self._connection: duckdb.DuckDBPyConnection = duckdb.connect(":memory:")
        self._connection.register("entry_files", lake.dataset("entries"))
        self._connection.register("result_files", lake.dataset("results"))
        for name, text in _VIEWS.items():
            self._connection.execute(f"CREATE VIEW {name} AS {text}")
        for setting in _LOCKED:
            self._connection.execute(setting)

    def ask(self, sql: str) -> Answer:
        """Raises QueryRefused for what is no question, and for what DuckDB does not take."""
        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1:
                raise QueryRefused("Give one statement.", "Several are several questions.")
            if statements[0].type.name not in _ASKING:
                raise QueryRefused(
                    f"This is for questions: {statements[0].type.name} is none.", "Give a SELECT."
                )
            self._connection.execute(statements[0])
            described = self._connection.description or []
            return Answer(tuple(str(c[0]) for c in described), self._rows())
        except self._errors as e:
            raise _wrong(e) from None

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        try:
            while rows := self._connection.fetchmany(1000):
                yield from rows
        except self._errors as e:
            raise _wrong(e) from None

    def close(self) -> None:
        self._connection.close()


def _wrong(error: Exception) -> QueryRefused:
    said = " ".join(str(error).split())[:500]
    return QueryRefused(
        f"DuckDB says: {said}", f"The views are {', '.join(VIEWS)}: docs/queries.md."
    )
