"""sqlglot's Snowflake dialect, save for one operator that Snowflake does not have.

`?::` is another product's cast that gives NULL instead of an error. To Snowflake `?::DATE` is a bind variable
and its cast, and drivers' users write just that.
"""

from __future__ import annotations

from sqlglot.dialects.snowflake import Snowflake


class _Snowflake(Snowflake):
    class Tokenizer(Snowflake.Tokenizer):
        KEYWORDS = {k: v for k, v in Snowflake.Tokenizer.KEYWORDS.items() if k != "?::"}  # noqa: RUF012


SNOWFLAKE = _Snowflake()
