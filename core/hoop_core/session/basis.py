"""What a decision was made from, as evidence: enough to make it again without Snowflake."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from hoop_core.analysts.question import Judged, Question
from hoop_core.approvals.exceptions import InForce
from hoop_core.model import Decision, Json, NameContext, TableName
from hoop_core.sql.catalog import CatalogObject


@dataclass(frozen=True, slots=True)
class Basis:
    """What the judge was given beside caller, run and policy, and what it made of it.

    `sql` is the text that it read: the caller's own, save that bound names stand in it (settling.py) and
    `FROM DUAL` does not. `rewritten` is None when it denied.
    """

    sql: str
    names: NameContext
    now: datetime
    objects: Mapping[TableName, CatalogObject | None]
    exceptions: InForce
    decision: Decision
    rewritten: str | None
    bound: bool = False
    """Whether values that the client bound stand in `sql`: they are logged if it runs, for they are part of it then."""

    @classmethod
    def of(
        cls, question: Question, judged: Judged, exceptions: InForce, *, bound: bool = False
    ) -> Basis:
        """Of a verdict, as it was before anything of the session was added to it."""
        return cls(
            question.sql,
            question.names,
            question.now,
            judged.objects,
            exceptions,
            exceptions.named_in(judged.verdict.decision),
            judged.verdict.rewritten,
            bound,
        )

    def as_json(self, asked: str, executed: str | None = None) -> Json:
        """What an entry about a statement says of it beside `asked`, the caller's text, and `executed`, the text
        that runs. Database and schema are those that names were read with: the session's own may be others by now.

        `catalog` names what is described by `catalog.described` entries (null: not there), `sizes` rows and
        bytes as Snowflake last told them. There only where they are needed: `judged_sql`, for another text than the
        caller's, or of a refusal with bound values in it its SHA-256; `verified`, where a load was narrowed to the session's own stages after it; `exceptions_in_force`.
        """
        told: Json = {
            "database": self.names.database,
            "schema": self.names.schema,
            "now": self.now.isoformat(timespec="microseconds"),
            "catalog": {str(t): None if o is None else o.digest for t, o in self.objects.items()},
        }
        sizes = {
            str(t): [o.rows, o.bytes]
            for t, o in self.objects.items()
            if o is not None and (o.rows, o.bytes) != (None, None)
        }
        if sizes:
            told["sizes"] = sizes
        if self.sql != asked and self.bound and executed is None:
            told["judged_sql_sha256"] = hashlib.sha256(self.sql.encode()).hexdigest()
        elif self.sql != asked:
            told["judged_sql"] = self.sql
        if executed is not None and executed != self.rewritten:
            told["verified"] = self.rewritten
        if self.exceptions.grants:
            told["exceptions_in_force"] = self.exceptions.as_json()
        return told
