"""A SnowflakeHook whose connection leads to Hoop.

Everything that a Snowflake hook can do (records, data frames, SQLAlchemy, Snowpark) goes through the
two methods that build connection parameters; both are replaced here. There is no Snowflake password,
key or token in this process: a DAG author who digs out the connection's secrets finds only the job's
own identity token.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook
from airflow.sdk.log import mask_secret

from hoop_airflow.connection import CONN_TYPE, checked, gateway_of, token_of
from hoop_airflow.context import current_run
from hoop_core.client import (
    GatewayAddress,
    HoopClient,
    TokenSource,
    connection_parameters,
    open_connection,
    snowpark_session,
    sqlalchemy_engine,
    sqlalchemy_url,
)
from hoop_core.errors import ConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from snowflake.connector import SnowflakeConnection
    from snowflake.snowpark import Session
    from sqlalchemy.engine import Engine


class HoopSnowflakeHook(SnowflakeHook):
    """Snowflake through Hoop, as a drop-in for SnowflakeHook.

    Connection (type `hoop_snowflake`): host (and port) is Hoop's address; without a host
    $HOOP_GATEWAY_URL, else the embedded gateway. The identity token comes from the extra `token_file`
    or `token_env`, or from the password; without any of them from the job's surroundings
    (`hoop_core.client.token_source`). Extras `database`, `role`, `warehouse` and the field schema set
    the session; the hook's own arguments of these names win.

    :param snowflake_conn_id: the connection's id (default `hoop_default`)
    :param purpose: why the data is wanted; approvers and auditors read it
    """

    conn_name_attr = "snowflake_conn_id"
    default_conn_name = "hoop_default"
    conn_type = CONN_TYPE
    hook_name = "Snowflake through Hoop"

    def __init__(self, *args: Any, purpose: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.purpose = purpose

    @cached_property
    def _hoop(self) -> Connection:
        """The connection. Raises ConfigError when it is of another type: then its host is not Hoop, and
        its password would go there as an identity token."""
        connection: Connection = checked(self.connection)
        return connection

    @cached_property
    def gateway(self) -> GatewayAddress:
        """Hoop's address as the connection gives it."""
        return gateway_of(self._hoop)

    @cached_property
    def identity_token(self) -> TokenSource:
        """Where this job's own token comes from. Its text is taken fresh for each connection."""
        return token_of(self._hoop)

    @property
    def airflow_name(self) -> str | None:
        """What Hoop's settings call this Airflow; needed where they know several."""
        return self._hoop.extra_dejson.get("airflow") or None

    def client(self) -> HoopClient:
        """Hoop's REST API as this job. Close it after use."""
        return HoopClient(self.gateway, self.identity_token)

    @cached_property
    def _get_static_conn_params(self) -> dict[str, Any]:
        """What does not change between two connections; the parent's keys, without any secret."""
        extra = self._hoop.extra_dejson
        if foreign := sorted(_SNOWFLAKE_SECRETS & {k for k, v in extra.items() if v}):
            raise ConfigError(
                f"The connection {self.get_conn_id()} holds {', '.join(foreign)}.",
                "A connection to Hoop needs no Snowflake credential: take it out, and revoke it.",
            )
        return {
            "account": "",
            "region": "",
            "database": self.database or extra.get("database") or "",
            "schema": self.schema or self._hoop.schema or "",
            "role": self.role or extra.get("role") or "",
            "warehouse": self.warehouse or extra.get("warehouse") or "",
            "session_parameters": self.session_parameters or extra.get("session_parameters"),
        }

    def _get_conn_params(self) -> dict[str, Any]:
        static = self._get_static_conn_params
        token = self.identity_token.token()
        mask_secret(token)
        return connection_parameters(
            self.gateway,
            token,
            database=static["database"],
            schema=static["schema"],
            role=static["role"],
            warehouse=static["warehouse"],
            run=current_run(),
            session_parameters=static["session_parameters"],
            purpose=self.purpose,
            application="AIRFLOW",
        )

    def get_conn(self) -> SnowflakeConnection:
        """A connection of the ordinary Snowflake connector, through Hoop."""
        return open_connection(self._get_conn_params())

    def get_uri(self) -> str:
        """A SQLAlchemy URL without the token."""
        static = self._get_static_conn_params
        return sqlalchemy_url(self.gateway, static["database"], static["schema"])

    def _conn_params_to_sqlalchemy_uri(self, conn_params: dict[str, Any]) -> str:
        return self.get_uri()

    def get_sqlalchemy_engine(self, engine_kwargs: dict[str, Any] | None = None) -> Engine:
        """An engine whose every new connection presents the token of that moment."""
        return sqlalchemy_engine(self.get_uri(), self._get_conn_params, **(engine_kwargs or {}))

    def get_snowpark_session(self) -> Session:
        """A Snowpark session through Hoop. What the parent puts into the query tag (who runs this) is
        in the run context, and the tag ties Snowflake's history to Hoop's log."""
        return snowpark_session(self._get_conn_params())

    @property
    def account_identifier(self) -> str:
        """The base URL that REST calls go to: Hoop's, never Snowflake's."""
        return self.gateway.url

    def get_private_key(self) -> None:
        """None: there is no Snowflake key on this side of Hoop."""

    def get_oauth_token(self, *args: Any, **kwargs: Any) -> str:
        """The job's own identity token, which is all that Hoop takes."""
        token = self.identity_token.token()
        mask_secret(token)
        return token

    def get_azure_oauth_token(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ConfigError(
            "A connection to Hoop takes no Snowflake token from Azure.",
            "Give the job its own identity token by token_file or token_env.",
        )

    # Lineage comes from the gateway, which sees what really ran. The provider's own would read
    # INFORMATION_SCHEMA and ACCOUNT_USAGE through this connection at the start and end of each task.

    def get_openlineage_database_info(self, connection: Any) -> None:
        return None

    def get_openlineage_default_schema(self) -> str | None:
        return self._get_static_conn_params["schema"] or None

    def get_openlineage_database_specific_lineage(self, task_instance: Any) -> None:
        return None


_SNOWFLAKE_SECRETS = frozenset(
    {
        "client_secret",
        "oauth_password",
        "private_key_content",
        "private_key_file",
        "refresh_token",
        "token",
        *(
            f"extra__snowflake__{name}"
            for name in ("private_key_content", "private_key_file", "refresh_token")
        ),
    }
)
