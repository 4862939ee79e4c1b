"""The statement texts that the ordinary connector will send, computed without a connection.

To ask ahead for approval one must know the exact text in advance. Hooks split a script, and the
connector binds `%s`/`%(name)s` parameters into the text on the client; both are repeated here with the
connector's own splitter and converter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any

from hoop_core.errors import ConfigError


def split_script(script: str) -> tuple[str, ...]:
    """The statements of a script, as the Airflow hook splits it before it runs them."""
    from snowflake.connector import util_text  # noqa: PLC0415  slow to import

    return tuple(text for text, _ in util_text.split_statements(StringIO(script)) if text)


def bind(sql: str, parameters: Mapping[str, Any] | Iterable[Any] | None) -> str:
    """`sql` with its parameters bound as the connector binds them (paramstyle pyformat).

    Raises ConfigError when the parameters do not fit the text.
    """
    if parameters is None:
        return sql
    from snowflake.connector.converter import SnowflakeConverter  # noqa: PLC0415  slow to import

    converter = SnowflakeConverter()

    def literal(value: Any) -> Any:
        return converter.quote(converter.escape(converter.to_snowflake(value)))

    values: Any
    if isinstance(parameters, Mapping):
        values = {k: literal(v) for k, v in parameters.items()}
    elif isinstance(parameters, tuple | list):
        values = tuple(literal(v) for v in parameters)
    else:  # the connector takes anything else for one value
        values = (literal(parameters),)
    if not values:
        return sql
    try:
        bound: str = sql % values
    except (TypeError, ValueError, KeyError) as e:
        raise ConfigError(
            f"The parameters do not fit the statement: {e}.",
            "Each %s or %(name)s needs one value; write a literal percent sign as %%.",
        ) from None
    return bound
