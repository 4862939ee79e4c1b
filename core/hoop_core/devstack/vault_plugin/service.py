"""The gRPC services that OpenBao calls: dbplugin v5, multiplexing, version, health, and go-plugin's own.

grpclib instead of grpcio: go-plugin's AutoMTLS certificate is ECDSA P-521, which grpcio's TLS
library rejects; grpclib uses the interpreter's OpenSSL. Blocking work runs on threads, so that Type,
Close and Health, which OpenBao times at one second, answer while Snowflake is slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, cast

from google.protobuf import json_format
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from hoop_core.devstack.vault_plugin import messages as m
from hoop_core.devstack.vault_plugin.connections import MAX_OPEN
from hoop_core.devstack.vault_plugin.users import NewUser, PluginError, SnowflakeUsers

PLUGIN_VERSION = "v0.1.0+hoop"
TYPE_NAME = "snowflake"
_MULTIPLEX_KEY = "multiplex_id"
_DATABASE = "/dbplugin.v5.Database/"

AnyStream = Stream[Any, Any]
Unary = Callable[[AnyStream, Any], Awaitable[Any]]


def _moment(timestamp: Any) -> datetime:
    return datetime.fromtimestamp(timestamp.seconds + timestamp.nanos / 1e9, UTC)


class PluginService:
    """Serves any number of database configurations, told apart by OpenBao's `multiplex_id`."""

    def __init__(self, make_users: Callable[[], SnowflakeUsers] = SnowflakeUsers) -> None:
        self._make_users = make_users
        self._databases: dict[str, SnowflakeUsers] = {}
        # Twice the pool: operations that wait for a connection give up, they do not block others.
        self._threads = ThreadPoolExecutor(2 * MAX_OPEN, thread_name_prefix="snowflake")
        self.shutdown = asyncio.Event()

    def close(self) -> None:
        """Close every configuration without waiting for Snowflake."""
        for database in self._databases.values():
            database.close()
        self._databases.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __mapping__(self) -> dict[str, Handler]:
        """grpclib's contract: the full method name to its handler."""
        db = m.DATABASE
        unary: dict[str, tuple[Unary, Any, Any]] = {
            _DATABASE + "Initialize": (
                self._initialize,
                db["InitializeRequest"],
                db["InitializeResponse"],
            ),
            _DATABASE + "NewUser": (self._new_user, db["NewUserRequest"], db["NewUserResponse"]),
            _DATABASE + "UpdateUser": (
                self._update_user,
                db["UpdateUserRequest"],
                db["UpdateUserResponse"],
            ),
            _DATABASE + "DeleteUser": (
                self._delete_user,
                db["DeleteUserRequest"],
                db["DeleteUserResponse"],
            ),
            _DATABASE + "Type": (self._type, db["Empty"], db["TypeResponse"]),
            _DATABASE + "Close": (self._close, db["Empty"], db["Empty"]),
            "/pluginutil.multiplexing.PluginMultiplexing/MultiplexingSupport": (
                self._multiplexing,
                m.MULTIPLEXING["MultiplexingSupportRequest"],
                m.MULTIPLEXING["MultiplexingSupportResponse"],
            ),
            "/logical.PluginVersion/Version": (
                self._version,
                m.VERSION["Empty"],
                m.VERSION["VersionReply"],
            ),
            "/grpc.health.v1.Health/Check": (
                self._health,
                m.HEALTH["HealthCheckRequest"],
                m.HEALTH["HealthCheckResponse"],
            ),
            "/plugin.GRPCController/Shutdown": (
                self._shutdown,
                m.PLUGIN["Empty"],
                m.PLUGIN["Empty"],
            ),
        }
        handlers = {
            path: Handler(_unary(function), Cardinality.UNARY_UNARY, request, reply)
            for path, (function, request, reply) in unary.items()
        }
        handlers["/plugin.GRPCBroker/StartStream"] = Handler(
            self._broker,
            Cardinality.STREAM_STREAM,
            m.PLUGIN["ConnInfo"],
            m.PLUGIN["ConnInfo"],
        )
        handlers["/plugin.GRPCStdio/StreamStdio"] = Handler(
            self._stdio, Cardinality.UNARY_STREAM, m.EMPTY, m.PLUGIN["StdioData"]
        )
        return handlers

    def _database(self, stream: AnyStream, *, create: bool = False) -> SnowflakeUsers:
        key = _multiplex_id(stream)
        if key not in self._databases:
            if not create:
                raise GRPCError(Status.FAILED_PRECONDITION, "the database is not initialized")
            self._databases[key] = self._make_users()
        return self._databases[key]

    async def _blocking(self, work: Callable[[], Any]) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except PluginError as e:
            raise GRPCError(Status.INTERNAL, str(e)) from None
        except Exception as e:
            # Anything else is a fault of ours; its text may hold anything, so only its type is told.
            raise GRPCError(Status.INTERNAL, f"plugin fault: {type(e).__name__}") from None

    async def _initialize(self, stream: AnyStream, request: Any) -> Any:
        database = self._database(stream, create=True)
        data = json_format.MessageToDict(request.config_data)
        verify = bool(request.verify_connection)
        await self._blocking(lambda: database.initialize(data, verify=verify))
        reply = m.DATABASE["InitializeResponse"]()
        reply.config_data.CopyFrom(request.config_data)
        # Without this OpenBao believes that only passwords are possible.
        reply.config_data.update({"supported_credential_types": ["password", "rsa_private_key"]})
        return reply

    async def _new_user(self, stream: AnyStream, request: Any) -> Any:
        database = self._database(stream)
        password = public_key = ""
        if request.credential_type == m.CREDENTIAL_PASSWORD:
            password = request.password
        elif request.credential_type == m.CREDENTIAL_RSA_PRIVATE_KEY:
            public_key = request.public_key.decode("ascii", "replace")
        if not (password or public_key):
            raise GRPCError(
                Status.INVALID_ARGUMENT, "only password and rsa_private_key credentials are made"
            )
        user = NewUser(
            display_name=request.username_config.display_name,
            role_name=request.username_config.role_name,
            expires_at=_moment(request.expiration),
            creation=list(request.statements.Commands),
            rollback=list(request.rollback_statements.Commands),
            password=password,
            public_key=public_key,
        )
        name = await self._blocking(lambda: database.create(user))
        return m.DATABASE["NewUserResponse"](username=name)

    async def _update_user(self, stream: AnyStream, request: Any) -> Any:
        database = self._database(stream)

        def work() -> None:
            if request.password.new_password:
                change = request.password
                database.change_password(
                    request.username, change.new_password, list(change.statements.Commands)
                )
            if request.public_key.new_public_key:
                change = request.public_key
                pem = change.new_public_key.decode("ascii", "replace")
                database.change_public_key(request.username, pem, list(change.statements.Commands))
            if request.HasField("expiration"):
                change = request.expiration
                database.change_expiration(
                    request.username,
                    _moment(change.new_expiration),
                    list(change.statements.Commands),
                )

        await self._blocking(work)
        return m.DATABASE["UpdateUserResponse"]()

    async def _delete_user(self, stream: AnyStream, request: Any) -> Any:
        database = self._database(stream)
        statements = list(request.statements.Commands)
        await self._blocking(lambda: database.delete(request.username, statements))
        return m.DATABASE["DeleteUserResponse"]()

    async def _type(self, stream: AnyStream, request: Any) -> Any:
        return m.DATABASE["TypeResponse"](Type=TYPE_NAME)

    async def _close(self, stream: AnyStream, request: Any) -> Any:
        key = _multiplex_id(stream)
        if database := self._databases.pop(key, None):
            database.close()
        return m.DATABASE["Empty"]()

    async def _multiplexing(self, stream: AnyStream, request: Any) -> Any:
        return m.MULTIPLEXING["MultiplexingSupportResponse"](supported=True)

    async def _version(self, stream: AnyStream, request: Any) -> Any:
        return m.VERSION["VersionReply"](plugin_version=PLUGIN_VERSION)

    async def _health(self, stream: AnyStream, request: Any) -> Any:
        return m.HEALTH["HealthCheckResponse"](status=m.HEALTH_SERVING)

    async def _shutdown(self, stream: AnyStream, request: Any) -> Any:
        self.shutdown.set()
        return m.PLUGIN["Empty"]()

    async def _broker(self, stream: AnyStream) -> None:
        # OpenBao opens the broker and never uses it for databases; draining keeps the stream alive.
        while await stream.recv_message() is not None:
            pass

    async def _stdio(self, stream: AnyStream) -> None:
        # Held open without data: our output goes to standard error, which OpenBao logs.
        await stream.recv_message()
        await stream.send_initial_metadata()
        await self.shutdown.wait()


def _multiplex_id(stream: AnyStream) -> str:
    metadata = cast("Mapping[str, Any]", stream.metadata or {})
    return str(metadata.get(_MULTIPLEX_KEY, ""))


def _unary(function: Unary) -> Callable[[AnyStream], Awaitable[None]]:
    async def handler(stream: AnyStream) -> None:
        request = await stream.recv_message()
        if request is not None:
            await stream.send_message(await function(stream, request))

    return handler
