"""A SnowflakeResource whose connections lead to Hoop."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from dagster_snowflake import SnowflakeResource
from pydantic import Field, model_validator

from hoop_core.client import (
    Approval,
    GatewayAddress,
    HoopClient,
    TokenSource,
    bind,
    checked_options,
    connection_parameters,
    open_connection,
    resolve_gateway,
    snowpark_session,
    sqlalchemy_engine,
    sqlalchemy_url,
    token_source,
)
from hoop_core.errors import ConfigError
from hoop_core.model import RunContext
from hoop_dagster.context import current_run, execution_context
from hoop_dagster.held import approval_waited_for, awaiting

if TYPE_CHECKING:
    from snowflake.snowpark import Session

_CREDENTIALS = (
    "authenticator",
    "password",
    "private_key",
    "private_key_password",
    "private_key_path",
)
_CONNECTOR_OPTIONS = (
    "autocommit",
    "client_prefetch_threads",
    "client_session_keep_alive",
    "login_timeout",
    "network_timeout",
    "paramstyle",
    "timezone",
    "validate_default_parameters",
)


GATEWAY_ENV = "HOOP_GATEWAY_URL"
WHEN_HELD_PARAMETER = "HOOP_WHEN_HELD"


class HoopSnowflakeResource(SnowflakeResource):
    """Snowflake through Hoop, as a drop-in for SnowflakeResource.

    Assets that ask for a SnowflakeResource take it as it is. It holds Hoop's address and the name of
    the place where the job's identity token lies, never a Snowflake credential. The token itself is not
    a field: Dagster shows and stores a resource's configuration.

        HoopSnowflakeResource(
            gateway_url="https://hoop.example.com",
            token_file="/var/run/secrets/hoop/token",
            database="PROD",
            schema="FEATURES",
        )
    """

    gateway_url: str | None = Field(
        default=None,
        description="Hoop's address. Default: $HOOP_GATEWAY_URL, else a gateway inside this process.",
    )
    token_file: str | None = Field(
        default=None,
        description="The file with the job's OIDC token (a projected token); read again at each use.",
    )
    token_env: str | None = Field(
        default=None, description="The environment variable with the job's OIDC token."
    )
    purpose: str | None = Field(
        default=None, description="Why the data is wanted; approvers and auditors read it."
    )
    while_waiting: Literal["end_run", "hold"] = Field(
        default="end_run",
        description="What a step does when its statement needs an approval that nobody has given yet. "
        "end_run: it ends, no process waits, and hoop_approval_sensor resumes what was left. hold: it "
        "waits. Outside of a run, and with a gateway inside this process, statements are always held.",
    )
    user: str = Field(
        default="hoop", description="Not used: who asks is what the identity token says."
    )

    @model_validator(mode="before")
    @classmethod
    def validate_authentication(cls, values: Any) -> Any:
        """Takes the place of the parent's check, which wants a password. Raises ConfigError."""
        found = [k for k in _CREDENTIALS if values.get(k) is not None]
        if found:
            raise ConfigError(
                f"A HoopSnowflakeResource was given {', '.join(found)}.",
                "It needs no Snowflake credential: leave that out, and name token_file or token_env.",
            )
        return values

    @classmethod
    def _is_dagster_maintained(cls) -> bool:
        return False

    @property
    def gateway(self) -> GatewayAddress:
        """Hoop's address."""
        return resolve_gateway(self._resolved_config_dict.get("gateway_url"))

    @property
    def identity_token(self) -> TokenSource:
        """Where this job's own token comes from."""
        config = self._resolved_config_dict
        return token_source(env=config.get("token_env"), file=config.get("token_file"))

    @property
    def _connection_args(self) -> Mapping[str, Any]:
        # Not cached, unlike the parent's: the token and the step change between two connections.
        config = self._resolved_config_dict
        extra = dict(config.get("additional_snowflake_connection_args") or {})
        session_parameters = dict(extra.pop("session_parameters", None) or {})
        if self._ends_run:
            session_parameters[WHEN_HELD_PARAMETER] = "refuse"
        parameters = connection_parameters(
            self.gateway,
            self.identity_token.token(),
            database=config.get("database"),
            schema=config.get("schema"),
            role=config.get("role"),
            warehouse=config.get("warehouse"),
            run=current_run(self._state__internal__.resource_context),
            session_parameters=session_parameters,
            purpose=config.get("purpose"),
            application="DagsterLabs_Dagster",
        )
        options = {k: config[k] for k in _CONNECTOR_OPTIONS if config.get(k) is not None}
        return {**parameters, **options, **checked_options(extra)}

    @property
    def _sqlalchemy_connection_args(self) -> Mapping[str, Any]:
        return self._connection_args

    @property
    def _sqlalchemy_engine_args(self) -> Mapping[str, Any]:
        return {}

    @property
    def _adbc_connection_args(self) -> Mapping[str, Any]:
        # The ADBC driver has no option for session parameters, so the run context stays out.
        config, gateway = self._resolved_config_dict, self.gateway
        named = {
            "adbc.snowflake.sql.db": config.get("database"),
            "adbc.snowflake.sql.schema": config.get("schema"),
            "adbc.snowflake.sql.role": config.get("role"),
            "adbc.snowflake.sql.warehouse": config.get("warehouse"),
        }
        return {
            "adbc.snowflake.sql.account": "hoop",
            "username": "hoop",
            "adbc.snowflake.sql.uri.host": gateway.host,
            "adbc.snowflake.sql.uri.port": str(gateway.port),
            "adbc.snowflake.sql.uri.protocol": gateway.protocol,
            "adbc.snowflake.sql.auth_type": "auth_oauth",
            "adbc.snowflake.sql.client_option.auth_token": self.identity_token.token(),
            **{k: v for k, v in named.items() if v},
        }

    @contextmanager
    def get_connection(self, raw_conn: bool = True) -> Iterator[Any]:
        """A connection through Hoop; always closed, also when the body raises.

        Which kind follows from `connector`, as with SnowflakeResource. Without an error, what was done
        is committed unless `autocommit` is set. A statement that waits for an approval ends the step
        with a Failure, see `while_waiting`.
        """
        with self._ending_the_run():
            if self.connector == "sqlalchemy":
                yield from self._sqlalchemy_connection(raw_conn)
            elif self.connector == "adbc":
                yield from self._adbc_connection()
            else:
                connection = open_connection(self._connection_args)
                try:
                    yield connection
                    if not self.autocommit:
                        connection.commit()
                finally:
                    connection.close()

    @contextmanager
    def create_snowpark_session(self) -> Iterator[Session]:
        """A Snowpark session through Hoop; always closed, also when the body raises."""
        with self._ending_the_run():
            session = snowpark_session(self._connection_args)
            try:
                yield session
            finally:
                session.close()

    def ask_ahead(
        self,
        sql: str,
        parameters: Mapping[str, Any] | Iterable[Any] | None = None,
        *,
        step_key: str | None = None,
    ) -> Approval | None:
        """Ask for a statement that this run, or one that goes on with it, will send; None when it needs
        no approval. `step_key` is the step that will send it (default: this one).

        Asking again gives the same open request. Raises PolicyDenied, StatementRefused, GatewayUnavailable.
        """
        config = self._resolved_config_dict
        run = current_run(self._state__internal__.resource_context)
        if step_key is not None:
            run = RunContext(run.orchestrator, {**run.fields, "step_key": step_key})
        given = config.get("additional_snowflake_connection_args") or {}
        session_parameters = dict(given.get("session_parameters") or {})
        if config.get("timezone"):  # the connector makes a session parameter of it
            session_parameters["TIMEZONE"] = config["timezone"]
        with HoopClient(self.gateway, self.identity_token) as hoop:
            return hoop.request_approval(
                bind(sql, parameters).strip(),
                database=config.get("database"),
                schema=config.get("schema"),
                role=config.get("role"),
                run=run,
                purpose=config.get("purpose"),
                session_parameters=session_parameters,
            )

    @property
    def _ends_run(self) -> bool:
        """A gateway of this process ends with it: nobody could answer any more."""
        config = self._resolved_config_dict
        elsewhere = bool(config.get("gateway_url") or os.environ.get(GATEWAY_ENV))
        ends = config.get("while_waiting", "end_run") == "end_run"
        return ends and elsewhere and execution_context() is not None

    @contextmanager
    def _ending_the_run(self) -> Iterator[None]:
        """Raises Failure for a statement that waits for an approval."""
        try:
            yield
        except Exception as e:
            context, identifier = execution_context(), approval_waited_for(e)
            if context is None or identifier is None:
                raise
            raise awaiting(identifier, self.gateway, self.identity_token, context) from e

    def _sqlalchemy_connection(self, raw: bool) -> Iterator[Any]:
        config = self._resolved_config_dict
        url = sqlalchemy_url(self.gateway, config.get("database") or "", config.get("schema") or "")
        engine = sqlalchemy_engine(url, lambda: self._sqlalchemy_connection_args)
        try:
            connection = engine.raw_connection() if raw else engine.connect()
            try:
                yield connection
            finally:
                connection.close()
        finally:
            engine.dispose()

    def _adbc_connection(self) -> Iterator[Any]:
        try:
            dbapi = import_module("adbc_driver_snowflake.dbapi")  # an optional driver
        except ImportError:
            raise dg.DagsterInvalidDefinitionError(
                'connector="adbc" needs the package adbc-driver-snowflake.'
            ) from None
        connection = dbapi.connect(db_kwargs=dict(self._adbc_connection_args))
        try:
            yield connection
        finally:
            connection.close()
