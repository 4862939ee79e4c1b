"""Queries: from the request to the encoded result, with cancelling, timeouts and retries.

Each query runs on a worker thread; a session runs one at a time. A query that is cancelled is
interrupted in DuckDB again and again until its worker has noticed.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from hoop_core.devstack.emulator.accounts import Account, User
from hoop_core.devstack.emulator.administer import Administration
from hoop_core.devstack.emulator.engine import Engine, Interrupted
from hoop_core.devstack.emulator.errors import SqlError
from hoop_core.devstack.emulator.history import History
from hoop_core.devstack.emulator.performer import Performer
from hoop_core.devstack.emulator.query import CANCELLED, Query
from hoop_core.devstack.emulator.sessions import Session, Sessions, parameter_value
from hoop_core.devstack.emulator.stages import Stages
from hoop_core.devstack.emulator.staging import Staging
from hoop_core.errors import where as went_through

log = logging.getLogger(__name__)

_NO_TIMEOUT = 172_800
_KEPT_BYTES = 512 * 1024 * 1024
_KEPT_REQUESTS = 200
_STAGE_URL_SECONDS = 3600
_INTERRUPT_SECONDS = 0.01


class Executor:
    """Runs queries, remembers their results, and cancels them."""

    def __init__(
        self, account: Account, sessions: Sessions, engine: Engine, history: History
    ) -> None:
        self._account = account
        self._sessions = sessions
        self._engine = engine
        self._history = history
        self.administration = Administration(account, sessions, engine, self.cancel_user)
        self.stages = Stages(_STAGE_URL_SECONDS)
        self.performer = Performer(
            account,
            engine,
            history,
            self.administration,
            find=self.find,
            staging=Staging(account, engine, self.stages),
        )
        self._pool = ThreadPoolExecutor(32, "query")
        self._lock = threading.Lock()
        self._queries: OrderedDict[str, Query] = OrderedDict()
        self._kept_bytes = 0
        self._doomed: set[Query] = set()
        self._wake = threading.Condition()
        self._stopping = False
        sessions.on_end = self._session_ended
        threading.Thread(target=self._interrupt_doomed, name="interrupter", daemon=True).start()

    # -- submitting -----------------------------------------------------------------------------
    def submit(self, session: Session, request_id: str, body: Mapping[str, Any]) -> Query:
        """Starts a query, or finds the one that this request already started.

        Raises SqlError for parameters that do not exist and for a reused request id.
        """
        sql = str(body.get("sqlText") or "")
        with session.guard:
            known = session.requests.get(request_id)
            if known is not None:
                if known.sql != sql:
                    raise SqlError("000615", "22000", "Duplicate requestId for another statement.")
                return known
            parameters = dict(
                parameter_value(str(k), v) for k, v in (body.get("parameters") or {}).items()
            )
            query = Query(_query_id(), session, request_id, sql, body, parameters)
            session.requests[request_id] = query
            session.open_queries += 1
            while len(session.requests) > _KEPT_REQUESTS:
                session.requests.popitem(last=False)
        with self._lock:
            self._queries[query.id] = query
        self._watch_time(query)
        self._pool.submit(self._run, query)
        return query

    def _watch_time(self, query: Query) -> None:
        seconds = int(query.session.parameter("STATEMENT_TIMEOUT_IN_SECONDS", query.parameters))
        if not 0 < seconds < _NO_TIMEOUT:
            return
        text = (
            f"Statement reached its statement or warehouse timeout of {seconds} second(s) "
            "and was canceled."
        )
        timer = threading.Timer(seconds, self.cancel, (query, SqlError("000630", "57014", text)))
        timer.daemon = True
        timer.start()
        query.done.add_done_callback(lambda _: timer.cancel())

    def find(self, query_id: str, user: User) -> Query:
        """A query of this user. Raises SqlError 000709."""
        with self._lock:
            query = self._queries.get(query_id)
        if query is None or query.session.user is not user:
            raise SqlError("000709", "02000", f"Statement {query_id} not found")
        return query

    def result_chunk(self, query_id: str) -> Query | None:
        """The query that a signed URL names, as long as its user may still have the data."""
        with self._lock:
            query = self._queries.get(query_id)
        return query if query is not None and query.session.user.usable() else None

    # -- cancelling -----------------------------------------------------------------------------
    def cancel(self, query: Query, error: SqlError | None = None) -> bool:
        """Asks the query to stop; False when it had already ended."""
        if query.done.done():
            return False
        with self._wake:
            if query.cancel_error is None:
                query.cancel_error = error or SqlError(*CANCELLED)
            query.cancelled.set()
            self._doomed.add(query)
            self._wake.notify()
        return True

    def cancel_user(self, user: User) -> int:
        """Stops everything that a user runs, in whichever session."""
        with self._lock:
            running = [q for q in self._queries.values() if q.session.user is user]
        return sum(self.cancel(q) for q in running)

    def _session_ended(self, session: Session) -> None:
        """A log-out lets detached queries finish; a user who is gone leaves nothing behind."""
        if not session.user.usable():
            self.cancel_user(session.user)
        self.stages.session_ended(session)
        self.performer.temporary.session_ended(session)
        self._close_when_idle(session)

    def _close_when_idle(self, session: Session, finished: int = 0) -> None:
        with session.guard:
            session.open_queries -= finished
            idle = session.ended and session.open_queries == 0
        if idle:
            with contextlib.suppress(Exception):
                session.connection.close()

    def _interrupt_doomed(self) -> None:
        while not self._stopping:
            with self._wake:
                self._doomed = {q for q in self._doomed if not q.done.done()}
                if not self._doomed:
                    self._wake.wait(1.0)
                doomed = list(self._doomed)
            for query in doomed:
                session = query.session
                with session.guard:
                    if session.current is query:
                        session.connection._duck_conn.interrupt()
            time.sleep(_INTERRUPT_SECONDS)

    def cancel_all(self) -> None:
        for query in list(self._queries.values()):
            self.cancel(query)

    def stop(self) -> None:
        """Cancels what runs and lets the workers go."""
        self.cancel_all()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._stopping = True

    # -- running --------------------------------------------------------------------------------
    def _run(self, query: Query) -> None:
        session = query.session
        query.event = {
            "QUERY_ID": query.id,
            "DATABASE_NAME": session.connection.database,
            "SCHEMA_NAME": session.connection.schema,
            "SESSION_ID": session.id,
            "USER_NAME": session.user.name,
            "ROLE_NAME": session.role,
            "WAREHOUSE_NAME": session.warehouse,
            "QUERY_TAG": str(session.parameter("QUERY_TAG", query.parameters)),
            "START_TIME": query.started,
            "CLIENT_APPLICATION_ID": session.application,
            "IS_CLIENT_GENERATED_STATEMENT": bool(query.body.get("isInternal")),
        }
        try:
            query.outcome = self.performer.perform(query)
        except Interrupted:
            query.cancel_error = query.cancel_error or SqlError(*CANCELLED)
            query.error = query.cancel_error
        except SqlError as e:
            query.error = e
        except Exception as e:
            # The text of an unexpected error may hold data: only where it happened is told.
            log.error("query %s failed inside the stand-in: %s", query.id, went_through(e))
            text = f"SQL execution internal error ({type(e).__name__})."
            query.error = SqlError("000603", "XX000", text)
        session.last_query_id = query.id
        try:
            self._record(query)
            self._keep(query)
        finally:
            query.done.set_result(None)
            self._close_when_idle(session, finished=1)

    # -- afterwards -----------------------------------------------------------------------------
    def _record(self, query: Query) -> None:
        if query.body.get("describeOnly"):
            return
        ended, error = datetime.now(UTC), query.error
        self._history.query(
            {
                **query.event,
                "QUERY_TEXT": query.shown,
                "QUERY_TYPE": query.kind,
                "EXECUTION_STATUS": "FAIL" if error else "SUCCESS",
                "ERROR_CODE": error.code if error else None,
                "ERROR_MESSAGE": error.message if error else None,
                "END_TIME": ended,
                "TOTAL_ELAPSED_TIME": int((ended - query.started).total_seconds() * 1000),
                "ROWS_PRODUCED": query.outcome.encoded.total if query.outcome else None,
            }
        )

    def _keep(self, query: Query) -> None:
        """Results live until newer ones need the room."""
        with self._lock:
            if query.outcome is not None:
                self._kept_bytes += query.outcome.size
            for old_id, old in list(self._queries.items()):
                if self._kept_bytes <= _KEPT_BYTES and len(self._queries) <= 20_000:
                    break
                if old.done.done() and old is not query:
                    del self._queries[old_id]
                    if old.outcome is not None:
                        self._kept_bytes -= old.outcome.size


def _query_id() -> str:
    """Snowflake's ids are UUIDs that begin with 01."""
    return str(uuid.UUID(hex="01" + secrets.token_hex(15)))
