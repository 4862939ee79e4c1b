"""What waits too long is put into the log once more, for channels to tell of.

One replica does so for all: whoever sets `reminded_at` first.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select, update

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.config.notifications import ReminderSettings
from hoop_core.model import ApprovalStatus, Json
from hoop_core.notifications.happenings import REMINDER
from hoop_core.store import Store
from hoop_core.store.tables import approvals

_AT_ONCE = 200
_a = approvals.c


class _RemindedMeanwhile(Exception):
    """Another replica was faster, or the request was answered; the transaction is rolled back."""


class Reminders:
    """Synchronous. Raises StoreUnavailable."""

    def __init__(self, store: Store, log: AuditLog, settings: ReminderSettings) -> None:
        self._store, self._log, self._settings = store, log, settings

    def remind(self) -> int:
        """How many reminders were written."""
        now = utc_now()
        before = timedelta(seconds=self._settings.expiring_seconds)
        columns = (_a.id, _a.created_at, _a.pending_until, _a.reminded_at, _a.emergency)
        expiring = (
            select(*columns)
            .where(_a.status == ApprovalStatus.PENDING, _a.reminded_at.is_(None))
            .where(_a.pending_until > now, _a.pending_until <= now + before)
            .order_by(_a.pending_until)
            .limit(_AT_ONCE)
        )
        reviews = select(*columns).where(_a.review_open).order_by(_a.created_at).limit(_AT_ONCE)
        with self._store.read() as connection:
            late = [
                row
                for row in connection.execute(expiring)
                if now >= row.pending_until - (row.pending_until - row.created_at) / 4
            ]
            open_ = [row for row in connection.execute(reviews) if self._due(row, now)]
        written = sum(self._write(row, "expiring", now) for row in late)
        return written + sum(self._write(row, "review_open", now) for row in open_)

    def _due(self, row: Row[Any], now: datetime) -> bool:
        since = datetime.fromisoformat(row.emergency["at"])
        if row.reminded_at is not None:
            since = max(since, row.reminded_at)
        return now - since >= timedelta(seconds=self._settings.review_seconds)

    def _write(self, row: Row[Any], event: str, now: datetime) -> bool:
        def write(connection: Connection) -> Json:
            seen = (
                _a.reminded_at.is_(None)
                if row.reminded_at is None
                else _a.reminded_at == row.reminded_at
            )
            still = (
                _a.review_open if event == "review_open" else _a.status == ApprovalStatus.PENDING
            )
            changed = connection.execute(
                update(approvals).where(_a.id == row.id, seen, still).values(reminded_at=now)
            )
            if changed.rowcount != 1:
                raise _RemindedMeanwhile
            return {"approval": row.id, "event": event}

        try:
            self._log.append(REMINDER, write)
        except _RemindedMeanwhile:
            return False
        return True
