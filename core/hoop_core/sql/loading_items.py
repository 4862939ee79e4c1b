"""The SELECT list of `COPY INTO t FROM (SELECT ... FROM @stage)`: columns of the files, turned into values.

Nothing in it can name a table, a session variable or a function of somebody: only `$1`, `$1:path`,
METADATA$FILENAME and its like, literals, casts, and a short list of built-in functions over them.

https://docs.snowflake.com/en/user-guide/data-load-transform#supported-functions
"""

from __future__ import annotations

from hoop_core.sql.loading import quoted
from hoop_core.sql.loading_cursor import Reader
from hoop_core.sql.loading_words import Sort, text_literal

_METADATA = frozenset({
    "METADATA$FILENAME", "METADATA$FILE_ROW_NUMBER", "METADATA$FILE_LAST_MODIFIED",
    "METADATA$START_SCAN_TIME", "METADATA$FILE_CONTENT_KEY",
})  # fmt: skip
_FUNCTIONS = frozenset({
    "ARRAY_CONSTRUCT", "BASE64_DECODE_BINARY", "BASE64_DECODE_STRING", "COALESCE", "CONCAT",
    "DATE_PART", "EQUAL_NULL", "HEX_DECODE_BINARY", "IFF", "IFNULL", "LENGTH", "LOWER", "LTRIM",
    "NULLIF", "NVL", "OBJECT_CONSTRUCT", "PARSE_JSON", "REPLACE", "RTRIM", "SPLIT_PART", "SUBSTR",
    "SUBSTRING", "TO_ARRAY", "TO_BINARY", "TO_BOOLEAN", "TO_CHAR", "TO_DATE", "TO_DECIMAL",
    "TO_DOUBLE", "TO_GEOGRAPHY", "TO_NUMBER", "TO_NUMERIC", "TO_OBJECT", "TO_TIME", "TO_TIMESTAMP",
    "TO_TIMESTAMP_LTZ", "TO_TIMESTAMP_NTZ", "TO_TIMESTAMP_TZ", "TO_VARCHAR", "TO_VARIANT", "TRIM",
    "TRY_PARSE_JSON", "TRY_TO_BINARY", "TRY_TO_BOOLEAN", "TRY_TO_DATE", "TRY_TO_DECIMAL",
    "TRY_TO_DOUBLE", "TRY_TO_NUMBER", "TRY_TO_NUMERIC", "TRY_TO_TIME", "TRY_TO_TIMESTAMP",
    "TRY_TO_TIMESTAMP_LTZ", "TRY_TO_TIMESTAMP_NTZ", "TRY_TO_TIMESTAMP_TZ", "UPPER", "ZEROIFNULL",
})  # fmt: skip
_TYPES = frozenset({
    "ARRAY", "BIGINT", "BINARY", "BOOLEAN", "BYTEINT", "CHAR", "CHARACTER", "DATE", "DATETIME",
    "DECFLOAT", "DECIMAL", "DOUBLE", "FLOAT", "FLOAT4", "FLOAT8", "GEOGRAPHY", "GEOMETRY", "INT",
    "INTEGER", "NUMBER", "NUMERIC", "OBJECT", "REAL", "SMALLINT", "STRING", "TEXT", "TIME",
    "TIMESTAMP", "TIMESTAMP_LTZ", "TIMESTAMP_NTZ", "TIMESTAMP_TZ", "TIMESTAMPLTZ", "TIMESTAMPNTZ",
    "TIMESTAMPTZ", "TINYINT", "VARBINARY", "VARCHAR", "VARIANT",
})  # fmt: skip
_DEEPEST = 16


def items(reader: Reader) -> tuple[tuple[str, ...], str | None]:
    """The values as they are written, and the alias that their columns are named by. Up to the FROM."""
    chosen = _Items(reader)
    found = [chosen.item()]
    while reader.take_sign(","):
        found.append(chosen.item())
    return tuple(found), chosen.alias


class _Items:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.alias: str | None = None

    def item(self) -> str:
        value = self._value(0)
        if self._reader.take("AS"):
            value = f"{value} AS {quoted(self._reader.identifier())}"
        return value

    def _value(self, depth: int) -> str:
        if depth > _DEEPEST:
            raise self._reader.refused("The columns to load are nested too deeply.")
        value = self._primary(depth)
        while self._reader.take_sign("::"):
            value = f"{value}::{self._type()}"
        return value

    def _primary(self, depth: int) -> str:
        reader = self._reader
        if word := reader.take_sort(Sort.COLUMN):
            return word.text + self._path()
        if word := reader.take_sort(Sort.TEXT):
            return text_literal(word.value)
        if reader.take_sign("-"):
            number = reader.take_sort(Sort.NUMBER)
            if number is None:
                raise reader.unexpected("a number")
            return f"-{number.text}"
        if word := reader.take_sort(Sort.NUMBER):
            return word.text
        for literal in ("NULL", "TRUE", "FALSE"):
            if reader.take(literal):
                return literal
        return self._named(depth)

    def _named(self, depth: int) -> str:
        """A function, METADATA$..., or a column behind an alias."""
        reader = self._reader
        here = reader.here
        name = reader.identifier()
        if reader.take_sign("."):
            self._is_alias(name)
            if word := reader.take_sort(Sort.COLUMN):
                return f"{quoted(name)}.{word.text}{self._path()}"
            here = reader.here
            column = reader.identifier()
            if here is not None and here.sort is Sort.NAME and column in _METADATA:
                return f"{quoted(name)}.{column}"
        elif here is not None and here.sort is Sort.NAME:
            if name in _METADATA:
                return name
            if name in _FUNCTIONS and reader.take_sign("("):
                return f"{name}({', '.join(self._arguments(depth))})"
            if name in ("CAST", "TRY_CAST") and reader.take_sign("("):
                value = self._value(depth + 1)
                reader.need("AS")
                type_ = self._type()
                reader.need_sign(")")
                return f"{name}({value} AS {type_})"
        raise reader.refused(
            "Only columns of the files ($1, $1:name), METADATA$ columns, literals, casts and common conversion "
            "functions can be loaded.",
            "Load into a table first, and transform it there.",
        )

    def _arguments(self, depth: int) -> list[str]:
        found: list[str] = []
        while not self._reader.take_sign(")"):
            found.append(self._value(depth + 1))
            if not self._reader.take_sign(","):
                self._reader.need_sign(")")
                break
        return found

    def _is_alias(self, name: str) -> None:
        if self.alias not in (None, name):
            raise self._reader.refused("The columns of the files are named by two aliases.")
        self.alias = name

    def _path(self) -> str:
        """`:name`, `."name"`, `[0]`, `['name']` behind a column."""
        reader = self._reader
        path = ""
        while True:
            if reader.take_sign(":" if not path else "."):
                path += (":" if not path else ".") + quoted(self._key())
            elif path and reader.take_sign("["):
                word = reader.take_sort(Sort.NUMBER) or reader.take_sort(Sort.TEXT)
                if word is None or (word.sort is Sort.NUMBER and not word.text.isdigit()):
                    raise reader.unexpected("a position or a key")
                inner = word.text if word.sort is Sort.NUMBER else text_literal(word.value)
                path += f"[{inner}]"
                reader.need_sign("]")
            else:
                return path

    def _key(self) -> str:
        """Keys keep their case, also without quotes."""
        reader = self._reader
        if word := reader.take_sort(Sort.QUOTED):
            return word.value
        word = reader.take_sort(Sort.NAME)
        if word is None:
            raise reader.unexpected("a key")
        return word.text

    def _type(self) -> str:
        reader = self._reader
        word = reader.take_sort(Sort.NAME)
        if word is None or word.value not in _TYPES:
            raise reader.unexpected("a data type")
        if word.value == "DOUBLE" and reader.take("PRECISION"):
            return "DOUBLE"
        if not reader.take_sign("("):
            return word.value
        numbers: list[str] = []
        while True:
            number = reader.take_sort(Sort.NUMBER)
            if number is None or not number.text.isdigit() or len(numbers) > 1:
                raise reader.unexpected("a number")
            numbers.append(number.text)
            if not reader.take_sign(","):
                reader.need_sign(")")
                return f"{word.value}({', '.join(numbers)})"
