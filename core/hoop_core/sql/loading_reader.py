"""Reads the statements that load files, by a grammar of our own. What does not fit to the last word is refused.

The reading is proven the way a rewritten query is: the text that was written from it, read again without any
context, must give the same value and the same text.
"""

from __future__ import annotations

import re

from hoop_core.errors import StatementRefused
from hoop_core.model import NameContext, TableName
from hoop_core.sql import loading_options as options
from hoop_core.sql.limits import DEFAULT, Limits, check_length
from hoop_core.sql.loading import (
    CopyInto,
    CreateFormat,
    CreateStage,
    Drop,
    InferSchema,
    Loading,
    Put,
    Rename,
    is_file_name,
)
from hoop_core.sql.loading_cursor import Reader
from hoop_core.sql.loading_items import items
from hoop_core.sql.loading_words import Sort, Word, words
from hoop_core.sql.refusals import refuse

_COMMENT = r"(?:\s|/\*[^*]*\*+(?:[^/*][^*]*\*+)*/|--[^\r\n]*[\r\n])*"
_BEGINS = re.compile(
    rf"{_COMMENT}(PUT|GET|COPY|LIST|LS|REMOVE|RM|CREATE|DROP|ALTER|SELECT)\b", re.I
)
_CREATES = re.compile(r"\b(?:STAGE|FILE\s+FORMAT)\b", re.I)
_RENAMES = re.compile(r"\bRENAME\b(?!\s+COLUMN\b)", re.I)
_INFERS = re.compile(r"\bFROM\s+TABLE\s*\(\s*INFER_SCHEMA\s*\(", re.I)
_INFERRED = ("COLUMN_NAME", "TYPE", "NULLABLE", "EXPRESSION", "FILENAMES", "ORDER_ID")
_MOST_WORDS = 20_000


def read_loading(sql: str, names: NameContext, limits: Limits = DEFAULT) -> Loading | None:
    """What the statement does; None when it is none of those that load files.

    Raises StatementRefused: TOO_LONG, TOO_MANY_TOKENS, STAGE, UNSERVED_STATEMENT, UNREADABLE_TOKEN,
    MULTI_STATEMENT, and those of names.
    """
    check_length(sql, limits)
    begins = _BEGINS.match(sql)
    if begins is None or not _may_be(begins[1].upper(), sql, begins.end()):
        return None
    if begins[1].upper() in _NEVER:
        raise refuse("STAGE", *_NEVER[begins[1].upper()])
    try:
        found = words(sql)
    except StatementRefused:
        if begins[1].upper() in ("PUT", "COPY"):
            raise
        return None  # for the other grammars, which know better what is wrong
    found = _one_statement(found, limits)
    return _read(found, names)


_NEVER = {
    "GET": ("Files cannot be downloaded through Hoop.", "Read tables with SELECT."),
    "LIST": ("What stages hold is not listed through Hoop.", "Keep a list of what you PUT."),
    "LS": ("What stages hold is not listed through Hoop.", "Keep a list of what you PUT."),
    "REMOVE": (
        "Files are not removed through Hoop one by one.",
        "COPY INTO ... PURGE = TRUE, or DROP STAGE; all of a session's stages end with it.",
    ),
    "RM": (
        "Files are not removed through Hoop one by one.",
        "COPY INTO ... PURGE = TRUE, or DROP STAGE; all of a session's stages end with it.",
    ),
}


def _may_be(first: str, sql: str, end: int) -> bool:
    """Most statements that begin with these words are others: told apart before they are split into words."""
    if first in ("PUT", "COPY") or first in _NEVER:
        return True
    if first == "SELECT":
        return _INFERS.search(sql, end) is not None
    if first == "ALTER":
        return _RENAMES.search(sql, end, end + 2000) is not None
    return _CREATES.search(sql, end, end + 2000) is not None


def _one_statement(found: list[Word], limits: Limits) -> list[Word]:
    while found and found[-1].text == ";":
        found.pop()
    if any(w.sort is Sort.SIGN and w.text == ";" for w in found):
        raise refuse(
            "MULTI_STATEMENT",
            "The text holds more than one statement.",
            "Send one statement at a time.",
        )
    if len(found) > min(_MOST_WORDS, limits.max_tokens):
        raise refuse("TOO_MANY_TOKENS", "The statement has too many words.", "Name fewer columns.")
    return found


def _read(found: list[Word], names: NameContext) -> Loading | None:
    reader = Reader(found, names)
    loading: Loading | None
    if reader.take("PUT"):
        loading = _put(reader)
    elif reader.take("COPY"):
        loading = _copy(reader)
    elif reader.take("CREATE"):
        loading = _create(reader)
    elif reader.take("DROP"):
        loading = _drop(reader)
    elif reader.take("ALTER", "TABLE"):
        loading = _rename(reader)
    else:
        loading = _infer(reader) if _infers(found) else None
    if loading is not None and not reader.done:
        raise reader.unexpected("the end")
    return loading


def _put(reader: Reader) -> Put:
    word = reader.take_sort(Sort.FILE) or reader.take_sort(Sort.TEXT)
    path = "" if word is None else word.value
    if path[:7].lower() != "file://":
        raise reader.unexpected("file://path")
    stage = reader.stage()
    put = Put(path[7:], stage, options.options(reader, options.PUT, None))
    if not put.of_many and not is_file_name(put.name):
        raise refuse(
            "STAGE",
            "The name of the file is not served: it is empty or has unusual characters.",
            "Name files with letters, digits, spaces and _ . + = -.",
        )
    return put


def _copy(reader: Reader) -> CopyInto:
    reader.need("INTO")
    here = reader.here
    if here is not None and here.sort in (Sort.STAGE, Sort.TEXT):
        raise refuse(
            "STAGE", "Data cannot be unloaded to a stage through Hoop.", "Read tables with SELECT."
        )
    table = reader.table()
    columns: list[str] = []
    if reader.take_sign("("):
        columns.append(reader.identifier())
        while reader.take_sign(","):
            columns.append(reader.identifier())
        reader.need_sign(")")
    reader.need("FROM")
    chosen: tuple[str, ...] | None = None
    alias = None
    if reader.take_sign("("):
        reader.need("SELECT")
        chosen, qualifier = items(reader)
        reader.need("FROM")
        source = reader.stage()
        if not reader.take_sign(")"):
            reader.take("AS")
            alias = reader.identifier()
            reader.need_sign(")")
        if qualifier is not None and qualifier != alias:
            raise reader.refused("The columns of the files are named by an alias that is none.")
        alias = qualifier
    else:
        source = reader.stage()
    return CopyInto(
        table, tuple(columns), source, chosen, alias, options.options(reader, options.COPY, None)
    )


def _create(reader: Reader) -> CreateStage | CreateFormat | None:
    replace = reader.take("OR", "REPLACE")
    scoped = reader.take("SCOPED")
    temporary = reader.take("TEMPORARY") or reader.take("TEMP")
    stage = reader.take("STAGE")
    if not stage and not reader.take("FILE", "FORMAT"):
        return None  # CREATE TABLE ... with a word of ours somewhere in it
    if not temporary:
        raise refuse(
            "STAGE",
            "Only temporary stages and file formats can be created through Hoop"
            + (", and TEMPORARY is missing behind SCOPED." if scoped else "."),
            "Write CREATE TEMPORARY STAGE: it ends with the session.",
        )
    before = reader.take("IF", "NOT", "EXISTS")
    name = reader.table()
    # some texts have it behind the name
    if_not_exists = before or reader.take("IF", "NOT", "EXISTS")
    if stage:
        given = options.options(reader, options.STAGE, None)
        return CreateStage(name, replace, if_not_exists, given)
    return CreateFormat(name, replace, if_not_exists, options.format_options(reader, None))


def _drop(reader: Reader) -> Drop | None:
    what = (
        "STAGE" if reader.take("STAGE") else "FILE FORMAT" if reader.take("FILE", "FORMAT") else ""
    )
    if not what:
        return None
    if_exists = reader.take("IF", "EXISTS")
    return Drop(what, reader.table(), if_exists)


def _rename(reader: Reader) -> Rename | None:
    table = reader.table()
    return Rename(table, reader.table()) if reader.take("RENAME", "TO") else None


def _infers(found: list[Word]) -> bool:
    """Whether the words of `FROM TABLE(INFER_SCHEMA(` stand outside texts and names in quotes."""
    plain = [w.value if w.sort in (Sort.NAME, Sort.SIGN) else "" for w in found]
    wanted = ["FROM", "TABLE", "(", "INFER_SCHEMA", "("]
    return any(plain[i : i + 5] == wanted for i in range(len(plain)))


def _infer(reader: Reader) -> InferSchema:
    reader.need("SELECT")
    columns: list[str] = []
    if reader.take_sign("*"):
        columns = ["*"]
    while not reader.take("FROM"):
        name = reader.identifier()
        if name not in _INFERRED or columns[:1] == ["*"]:
            raise reader.refused(f"INFER_SCHEMA has the columns {', '.join(_INFERRED)}.")
        columns.append(name)
        reader.take_sign(",")
    reader.need("TABLE")
    reader.need_sign("(")
    reader.need("INFER_SCHEMA")
    reader.need_sign("(")
    source = None
    format_: TableName | None = None
    while not reader.take_sign(")"):
        name = reader.identifier()
        reader.need_sign("=>")
        if name == "LOCATION" and source is None:
            source = reader.stage()
        elif name == "FILE_FORMAT" and format_ is None:
            word = reader.take_sort(Sort.TEXT)
            format_ = reader.table_in_text("" if word is None else word.value)
        else:
            raise reader.refused("INFER_SCHEMA is served with LOCATION and FILE_FORMAT only.")
        reader.take_sign(",")
    reader.need_sign(")")
    if source is None or format_ is None or not columns:
        raise reader.refused("INFER_SCHEMA needs columns, LOCATION and FILE_FORMAT.")
    return InferSchema(tuple(columns), source, format_)
