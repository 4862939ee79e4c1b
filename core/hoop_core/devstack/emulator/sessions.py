"""Sessions, their tokens and their parameters.

Tokens are opaque and random; only their digests are kept. A session ends by logout, by its user
being dropped, disabled or expired, and a token by age.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hoop_core.devstack.emulator.accounts import Account, User
from hoop_core.devstack.emulator.errors import SessionError, SqlError, bad_parameter, bad_value
from hoop_core.devstack.emulator.errors import not_modelled as _not_modelled

if TYPE_CHECKING:
    from hoop_core.devstack.emulator.query import Query

GONE = ("390111", "Session no longer exists.  New login required to access the service.")
EXPIRED = ("390112", "Session token has expired.  The session must be renewed.")
INVALID = ("390104", "Session token is invalid.  The user must login again to access the service.")
NO_TOKEN = ("390103", "Session token not found in the request data.")
MASTER_EXPIRED = ("390114", "Authentication token has expired.  The user must authenticate again.")
MASTER_INVALID = ("390115", "Authentication token is invalid.  The user must authenticate again.")

ParameterValue = str | int | bool

DEFAULTS: dict[str, ParameterValue] = {
    "ABORT_DETACHED_QUERY": False,
    "AUTOCOMMIT": True,
    "BINARY_INPUT_FORMAT": "HEX",
    "BINARY_OUTPUT_FORMAT": "HEX",
    "DATE_INPUT_FORMAT": "AUTO",
    "DATE_OUTPUT_FORMAT": "YYYY-MM-DD",
    "ERROR_ON_NONDETERMINISTIC_MERGE": True,
    "ERROR_ON_NONDETERMINISTIC_UPDATE": False,
    "GEOGRAPHY_OUTPUT_FORMAT": "GeoJSON",
    "GEOMETRY_OUTPUT_FORMAT": "GeoJSON",
    "JSON_INDENT": 2,
    "LOCK_TIMEOUT": 43200,
    "MULTI_STATEMENT_COUNT": 1,
    "QUERY_TAG": "",
    "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
    "ROWS_PER_RESULTSET": 0,
    "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS": 0,
    "STATEMENT_TIMEOUT_IN_SECONDS": 172_800,
    "STRICT_JSON_OUTPUT": False,
    "TIMESTAMP_DAY_IS_ALWAYS_24H": False,
    "TIMESTAMP_INPUT_FORMAT": "AUTO",
    "TIMESTAMP_LTZ_OUTPUT_FORMAT": "",
    "TIMESTAMP_NTZ_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF3",
    "TIMESTAMP_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF3 TZHTZM",
    "TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_NTZ",
    "TIMESTAMP_TZ_OUTPUT_FORMAT": "",
    "TIMEZONE": "Etc/UTC",
    "TIME_INPUT_FORMAT": "AUTO",
    "TIME_OUTPUT_FORMAT": "HH24:MI:SS",
    "TRANSACTION_ABORT_ON_ERROR": False,
    "TRANSACTION_DEFAULT_ISOLATION_LEVEL": "READ COMMITTED",
    "TWO_DIGIT_CENTURY_START": 1970,
    "USE_CACHED_RESULT": True,
    "WEEK_OF_YEAR_POLICY": 0,
    "WEEK_START": 0,
    # What the drivers read at login:
    "CLIENT_DISABLE_INCIDENTS": True,
    "CLIENT_MEMORY_LIMIT": 1536,
    "CLIENT_METADATA_REQUEST_USE_CONNECTION_CTX": False,
    "CLIENT_PREFETCH_THREADS": 4,
    "CLIENT_RESULT_CHUNK_SIZE": 160,
    "CLIENT_SESSION_CLONE": False,
    "CLIENT_SESSION_KEEP_ALIVE": False,
    "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY": 3600,
    "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD": 0,
    "CLIENT_TELEMETRY_ENABLED": False,
    "CLIENT_TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_LTZ",
    "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "ARROW",
    "JDBC_QUERY_RESULT_FORMAT": "ARROW",
    "ODBC_QUERY_RESULT_FORMAT": "ARROW",
    "GO_QUERY_RESULT_FORMAT": "ARROW",
    "DOTNET_QUERY_RESULT_FORMAT": "JSON",
    "NODE_QUERY_RESULT_FORMAT": "JSON",
    "C_API_QUERY_RESULT_FORMAT": "ARROW",
    "JDBC_FORMAT_DATE_WITH_TIMEZONE": False,
    "JDBC_TREAT_DECIMAL_AS_INT": True,
    "JDBC_TREAT_TIMESTAMP_NTZ_AS_UTC": False,
    "JDBC_USE_SESSION_TIMEZONE": True,
    "JS_TREAT_INTEGER_AS_BIGINT": False,
}
_FIXED: dict[str, tuple[ParameterValue, ...]] = {
    "QUOTED_IDENTIFIERS_IGNORE_CASE": (False,),
    "TIMEZONE": ("Etc/UTC", "UTC"),
    "TIMESTAMP_TYPE_MAPPING": ("TIMESTAMP_NTZ",),
    "ROWS_PER_RESULTSET": (0,),
    "WEEK_START": (0,),
    "WEEK_OF_YEAR_POLICY": (0,),
    "BINARY_INPUT_FORMAT": ("HEX",),
    "BINARY_OUTPUT_FORMAT": ("HEX",),
    "TIME_INPUT_FORMAT": ("AUTO",),
    "TWO_DIGIT_CENTURY_START": (1970,),
}
"""Parameters that exist, and whose other values the engine would silently ignore."""

_FORMAT_OF_CLIENT = {
    "pythonconnector": "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT",
    "pythonsnowpark": "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT",
    "snowflakesqlalchemy": "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT",
    "pdo": "C_API_QUERY_RESULT_FORMAT",
    "jdbc": "JDBC_QUERY_RESULT_FORMAT",
    "odbc": "ODBC_QUERY_RESULT_FORMAT",
    "go": "GO_QUERY_RESULT_FORMAT",
    ".net": "DOTNET_QUERY_RESULT_FORMAT",
    "javascript": "NODE_QUERY_RESULT_FORMAT",
}


def parameter_value(name: str, raw: Any) -> tuple[str, ParameterValue]:
    """The canonical name and the typed value. Raises SqlError for unknown names and values.

    Client-side settings (CLIENT_*) that the server only keeps are accepted as they are.
    """
    key = name.upper()
    if key not in DEFAULTS:
        if not key.startswith("CLIENT_"):
            raise bad_parameter(key)
        return key, raw if isinstance(raw, bool | int) else str(raw)
    default, text = DEFAULTS[key], str(raw)
    value: ParameterValue
    if isinstance(default, bool):
        if text.upper() not in ("TRUE", "FALSE"):
            raise bad_value(key)
        value = text.upper() == "TRUE"
    elif isinstance(default, int):
        if not text.isdigit():
            raise bad_value(key)
        value = int(text)
    else:
        value = text
    if key.endswith("_QUERY_RESULT_FORMAT"):
        value = str(value).upper().removesuffix("_FORCE")
        if value not in ("ARROW", "JSON"):
            raise bad_value(key)
    if key == "QUERY_TAG" and len(str(value)) > 2000:
        raise bad_value(key)
    if key in _FIXED and value not in _FIXED[key]:
        raise _not_modelled(f"{key} = {text}")
    return key, value


@dataclass(slots=True, eq=False)
class Session:
    id: int
    user: User
    role: str
    secondary: bool
    connection: Any
    """The engine's connection; it holds the current database and schema."""
    warehouse: str | None = None
    parameters: dict[str, ParameterValue] = field(default_factory=dict)
    application: str = ""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held while a statement runs: a session runs its statements one after the other."""
    guard: threading.Lock = field(default_factory=threading.Lock)
    current: Query | None = None
    requests: OrderedDict[str, Query] = field(default_factory=OrderedDict)
    open_queries: int = 0
    last_query_id: str | None = None
    ended: bool = False

    def parameter(self, name: str, statement: dict[str, ParameterValue] | None = None) -> Any:
        for level in (statement or {}, self.parameters, self.user.parameters):
            if name in level:
                return level[name]
        return DEFAULTS[name]

    def roles(self, account: Account) -> frozenset[str]:
        """The roles whose privileges count: the primary one, and the secondary ones if in use."""
        primary = account.inherited([self.role])
        return primary | account.granted_to(self.user) if self.secondary else primary

    def result_format(self, statement: dict[str, ParameterValue]) -> str:
        """ARROW or JSON: what this client's parameter says; an unknown client gets JSON."""
        name = _FORMAT_OF_CLIENT.get(self.application.lower())
        return "JSON" if name is None else str(self.parameter(name, statement))


@dataclass(frozen=True, slots=True)
class Tokens:
    token: str = field(repr=False)
    token_seconds: int
    master: str = field(repr=False)
    master_seconds: int


@dataclass(slots=True)
class _Known:
    session: Session
    until: float


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Sessions:
    """All sessions, found by token. `on_end` is called once for each session that ends."""

    def __init__(self, token_seconds: int, master_seconds: int) -> None:
        self._token_seconds = token_seconds
        self._master_seconds = master_seconds
        self._lock = threading.RLock()
        self._tokens: dict[bytes, _Known] = {}
        self._masters: dict[bytes, _Known] = {}
        self._live: dict[int, Session] = {}
        self._next = secrets.randbelow(10**9) + 10**9
        self.on_end: Callable[[Session], None] = lambda _session: None

    def next_id(self) -> int:
        with self._lock:
            self._next += 4
            return self._next

    def start(self, session: Session) -> Tokens:
        with self._lock:
            self._live[session.id] = session
            return self._issue(session)

    def _issue(self, session: Session) -> Tokens:
        token, master = secrets.token_urlsafe(48), secrets.token_urlsafe(48)
        now = time.monotonic()
        self._tokens[_digest(token)] = _Known(session, now + self._token_seconds)
        self._masters[_digest(master)] = _Known(session, now + self._master_seconds)
        return Tokens(token, self._token_seconds, master, self._master_seconds)

    def find(self, token: str | None) -> Session:
        """The live session of a token. Raises SessionError."""
        if not token:
            raise SessionError(*NO_TOKEN)
        with self._lock:
            known = self._tokens.get(_digest(token))
        if known is None:
            raise SessionError(*INVALID)
        if not known.session.ended and not known.session.user.usable():
            self.end_of_user(known.session.user)
        if known.session.ended:
            raise SessionError(*GONE)
        if known.until <= time.monotonic():
            raise SessionError(*EXPIRED)
        return known.session

    def renew(self, master: str | None, old: str) -> tuple[Session, Tokens]:
        """New tokens for old ones. The old session token must belong to the same session."""
        if not master:
            raise SessionError(*NO_TOKEN)
        with self._lock:
            known = self._masters.get(_digest(master))
            if known is None:
                raise SessionError(*MASTER_INVALID)
            before = self._tokens.get(_digest(old))
            session = known.session
            if not session.user.usable():
                self.end_of_user(session.user)
            if session.ended:
                raise SessionError(*GONE)
            if known.until <= time.monotonic():
                raise SessionError(*MASTER_EXPIRED)
            if before is None or before.session is not session:
                raise SessionError(*INVALID)
            before.until = 0.0
            known.until = 0.0
            return session, self._issue(session)

    def end(self, session: Session) -> None:
        with self._lock:
            if session.ended:
                return
            session.ended = True
            self._live.pop(session.id, None)
        self.on_end(session)

    def end_of_user(self, user: User) -> None:
        for session in self.of_user(user):
            self.end(session)

    def of_user(self, user: User) -> list[Session]:
        with self._lock:
            return [s for s in self._live.values() if s.user is user]

    def live(self) -> Iterable[Session]:
        with self._lock:
            return list(self._live.values())


def check_role(account: Account, user: User, role: str) -> None:
    """Raises SqlError 003013 unless the role may be the user's primary role."""
    if role not in account.granted_to(user):
        text = (
            f"SQL execution error:\nRequested role '{role}' is not assigned to the executing user. "
            "Specify another role to activate."
        )
        raise SqlError("003013", "42501", text)
