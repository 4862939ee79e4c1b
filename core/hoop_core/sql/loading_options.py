"""The options of statements that load files: which there are, and what each may be set to.

Whatever reaches beyond the session's own files is not among them: URL, CREDENTIALS, STORAGE_INTEGRATION,
ENCRYPTION, DIRECTORY, FORMAT_NAME (a file format of somebody else).
https://docs.snowflake.com/en/sql-reference/sql/create-file-format
"""

from __future__ import annotations

from collections.abc import Callable

from hoop_core.sql.loading import Options, is_file_name
from hoop_core.sql.loading_cursor import Reader
from hoop_core.sql.loading_words import Sort, text_literal

Value = Callable[[Reader], str]
"""Reads one value and gives it as it is written. Raises StatementRefused."""


def flag(reader: Reader) -> str:
    for word in ("TRUE", "FALSE"):
        if reader.take(word):
            return word
    raise reader.unexpected("TRUE or FALSE")


def number(reader: Reader) -> str:
    word = reader.take_sort(Sort.NUMBER)
    if word is None or not word.text.isdigit() or len(word.text) > 12:
        raise reader.unexpected("a whole number")
    return str(int(word.text))


def text(reader: Reader) -> str:
    word = reader.take_sort(Sort.TEXT)
    if word is None:
        raise reader.unexpected("a text in quotes")
    return text_literal(word.value)


def text_or_none(reader: Reader) -> str:
    return "NONE" if reader.take("NONE") else text(reader)


def texts(reader: Reader) -> str:
    if not reader.take_sign("("):
        return text(reader)
    found: list[str] = []
    while not reader.take_sign(")"):
        found.append(text(reader))
        if not reader.take_sign(","):
            reader.need_sign(")")
            break
    return f"({', '.join(found)})"


def files(reader: Reader) -> str:
    """Names below the stage's path. No part of them leads out of it."""
    reader.need_sign("(")
    found: list[str] = []
    while True:
        word = reader.take_sort(Sort.TEXT)
        if word is None or not all(map(is_file_name, word.value.split("/"))):
            raise reader.unexpected("file names of letters, digits and _ . + = -")
        found.append(text_literal(word.value))
        if not reader.take_sign(","):
            reader.need_sign(")")
            return f"({', '.join(found)})"


def one_of(*words: str) -> Value:
    """One of some words, bare or in quotes; written bare."""

    def read(reader: Reader) -> str:
        word = reader.take_sort(Sort.NAME) or reader.take_sort(Sort.TEXT)
        if word is None or word.value.upper() not in words:
            raise reader.unexpected(f"one of {', '.join(words)}")
        return word.value.upper()

    return read


def _on_error(reader: Reader) -> str:
    word = reader.take_sort(Sort.NAME) or reader.take_sort(Sort.TEXT)
    value = "" if word is None else word.value.upper()
    if value in {"CONTINUE", "ABORT_STATEMENT", "SKIP_FILE"}:
        return value
    count = value.removeprefix("SKIP_FILE_")
    if count != value and count.removesuffix("%").isdigit() and len(count) <= 10:
        return text_literal(value) if count.endswith("%") else value
    raise reader.unexpected("CONTINUE, SKIP_FILE, SKIP_FILE_<number> or ABORT_STATEMENT")


_COMPRESSION = one_of(
    "AUTO", "GZIP", "BZ2", "BROTLI", "ZSTD", "DEFLATE", "RAW_DEFLATE", "SNAPPY", "LZO", "NONE"
)
_FORMATS = {
    "DATE_FORMAT": text,
    "TIME_FORMAT": text,
    "TIMESTAMP_FORMAT": text,
    "BINARY_FORMAT": one_of("HEX", "BASE64", "UTF8"),
}
_ANY_TYPE: dict[str, Value] = {
    "COMPRESSION": _COMPRESSION,
    "TRIM_SPACE": flag,
    "REPLACE_INVALID_CHARACTERS": flag,
    "NULL_IF": texts,
}
_OF_TYPE: dict[str, dict[str, Value]] = {
    "PARQUET": {
        **_ANY_TYPE,
        "BINARY_AS_TEXT": flag,
        "USE_LOGICAL_TYPE": flag,
        "USE_VECTORIZED_SCANNER": flag,
        "SNAPPY_COMPRESSION": flag,
    },
    "CSV": {
        **_ANY_TYPE,
        **_FORMATS,
        "RECORD_DELIMITER": text_or_none,
        "FIELD_DELIMITER": text_or_none,
        "MULTI_LINE": flag,
        "PARSE_HEADER": flag,
        "SKIP_HEADER": number,
        "SKIP_BLANK_LINES": flag,
        "ESCAPE": text_or_none,
        "ESCAPE_UNENCLOSED_FIELD": text_or_none,
        "FIELD_OPTIONALLY_ENCLOSED_BY": text_or_none,
        "ERROR_ON_COLUMN_COUNT_MISMATCH": flag,
        "EMPTY_FIELD_AS_NULL": flag,
        "SKIP_BYTE_ORDER_MARK": flag,
        "ENCODING": text,
    },
    "JSON": {
        **_ANY_TYPE,
        **_FORMATS,
        "MULTI_LINE": flag,
        "ENABLE_OCTAL": flag,
        "ALLOW_DUPLICATE": flag,
        "STRIP_OUTER_ARRAY": flag,
        "STRIP_NULL_VALUES": flag,
        "IGNORE_UTF8_ERRORS": flag,
        "SKIP_BYTE_ORDER_MARK": flag,
    },
}


def file_format(reader: Reader) -> str:
    """`(TYPE = ... ...)`, with only those options that the type has."""
    reader.need_sign("(")
    found = format_options(reader, until=")")
    return "(" + " ".join(f"{name} = {value}" for name, value in found) + ")"


def format_options(reader: Reader, until: str | None) -> Options:
    """TYPE first, wherever it was written: what else may be set depends on it."""
    type_ = reader.ahead_value("TYPE")
    if type_ not in _OF_TYPE:
        raise reader.refused(
            "FILE_FORMAT needs TYPE = CSV, JSON or PARQUET, and its options in place: a named file format "
            "is not served here.",
            "Write FILE_FORMAT = (TYPE = CSV ...).",
        )
    allowed: dict[str, Value] = {"TYPE": one_of(type_), **_OF_TYPE[type_]}
    found = dict(options(reader, allowed, until))
    kind = found.pop("TYPE")
    return (("TYPE", kind), *sorted(found.items()))


def options(reader: Reader, allowed: dict[str, Value], until: str | None) -> Options:
    """NAME = value, ... in any order, each once, to the end of the text or the sign `until`."""
    found: dict[str, str] = {}
    while not (reader.done if until is None else reader.take_sign(until)):
        word = reader.take_sort(Sort.NAME)
        name = "" if word is None else word.value
        if name not in allowed or name in found:
            raise reader.refused(
                f"The option {name or 'here'} is not served in this statement, or stands twice.",
                f"Served: {', '.join(allowed)}.",
            )
        reader.need_sign("=")
        found[name] = allowed[name](reader)
        reader.take_sign(",")
    return tuple(found.items())


PUT: dict[str, Value] = {
    "PARALLEL": number,
    "AUTO_COMPRESS": flag,
    "SOURCE_COMPRESSION": one_of(
        "AUTO_DETECT", "GZIP", "BZ2", "BROTLI", "ZSTD", "DEFLATE", "RAW_DEFLATE", "NONE"
    ),
    "OVERWRITE": flag,
}
STAGE: dict[str, Value] = {"FILE_FORMAT": file_format, "COMMENT": text}
COPY: dict[str, Value] = {
    "FILES": files,
    "PATTERN": text,
    "FILE_FORMAT": file_format,
    "ON_ERROR": _on_error,
    "SIZE_LIMIT": number,
    "PURGE": flag,
    "RETURN_FAILED_ONLY": flag,
    "MATCH_BY_COLUMN_NAME": one_of("CASE_SENSITIVE", "CASE_INSENSITIVE", "NONE"),
    "ENFORCE_LENGTH": flag,
    "TRUNCATECOLUMNS": flag,
    "FORCE": flag,
    "LOAD_UNCERTAIN_FILES": flag,
}
