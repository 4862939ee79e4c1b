"""A cursor over the words of a statement that loads files."""

from __future__ import annotations

from collections.abc import Sequence

from hoop_core.errors import StatementRefused
from hoop_core.model import NameContext, TableName
from hoop_core.sql.loading import Stage, is_file_name
from hoop_core.sql.loading_words import Sort, Word
from hoop_core.sql.names import parse_parts, resolve_parts
from hoop_core.sql.refusals import refuse


class Reader:
    """Every `take` either advances or leaves the cursor where it was; every `need` refuses instead."""

    def __init__(self, words: Sequence[Word], names: NameContext) -> None:
        self._words, self._names, self._at = words, names, 0

    @property
    def done(self) -> bool:
        return self._at >= len(self._words)

    @property
    def here(self) -> Word | None:
        return None if self.done else self._words[self._at]

    def take(self, *given: str) -> bool:
        """All the given words in this order, unquoted."""
        ahead = self._words[self._at : self._at + len(given)]
        if len(ahead) == len(given) and all(
            w.sort is Sort.NAME and w.value == g for w, g in zip(ahead, given, strict=True)
        ):
            self._at += len(given)
            return True
        return False

    def need(self, *given: str) -> None:
        if not self.take(*given):
            raise self.unexpected(" ".join(given))

    def take_sign(self, sign: str) -> bool:
        here = self.here
        if here is not None and here.sort is Sort.SIGN and here.text == sign:
            self._at += 1
            return True
        return False

    def need_sign(self, sign: str) -> None:
        if not self.take_sign(sign):
            raise self.unexpected(sign)

    def take_sort(self, sort: Sort) -> Word | None:
        here = self.here
        if here is None or here.sort is not sort:
            return None
        self._at += 1
        return here

    def ahead_value(self, option: str) -> str | None:
        """The word behind the next `OPTION =`, wherever it stands; the cursor stays."""
        for first, sign, value in zip(
            self._words[self._at :], self._words[self._at + 1 :], self._words[self._at + 2 :],
            strict=False,
        ):  # fmt: skip
            if first.sort is Sort.NAME and first.value == option and sign.text == "=":
                return value.value.upper()
        return None

    def identifier(self) -> str:
        word = self.take_sort(Sort.QUOTED) or self.take_sort(Sort.NAME)
        if word is None:
            raise self.unexpected("a name")
        return word.value

    def table(self) -> TableName:
        """A name of one to three parts. Raises StatementRefused, also for those of `names.resolve_parts`."""
        parts = [self.identifier()]
        while len(parts) < 3 and self.take_sign("."):
            parts.append(self.identifier())
        return resolve_parts(tuple(parts), self._names)

    def table_in_text(self, text: str) -> TableName:
        """A name as it stands in a string literal."""
        parts = parse_parts(text)
        if parts is None or len(parts) > 3 or "*" in parts:
            raise self.refused("A name in quotes is none.", "Write 'DATABASE.SCHEMA.NAME'.")
        return resolve_parts(parts, self._names)

    def stage(self) -> Stage:
        """`@name/path`, bare or in quotes. Raises StatementRefused."""
        word = self.take_sort(Sort.STAGE) or self.take_sort(Sort.TEXT)
        if word is None:
            raise self.unexpected("a stage (@name or @~)")
        return self.stage_in_text(word.value)

    def stage_in_text(self, text: str) -> Stage:
        at, name, rest = _split_stage(text)
        if at != "@" or name.startswith("%"):
            raise refuse(
                "STAGE",
                "Files can be loaded from temporary stages of this session and from @~ only.",
                "CREATE TEMPORARY STAGE, PUT the files there, and name it as @stage.",
            )
        path = tuple(p for p in rest.split("/") if p) if rest.strip("/") else ()
        # one slash between parts, and one at the end: what else there is could be read in two ways
        if "/".join(("", *path)) not in (rest, rest.removesuffix("/")) or not all(
            map(is_file_name, path)
        ):
            raise refuse(
                "STAGE",
                "The path in the stage is not served: a part of it is empty, leads upwards, or has unusual "
                "characters.",
                "Use letters, digits and _ . + = - in paths.",
            )
        if name == "~":
            return Stage(None, path)
        table = self.table_in_text(name)
        if any(c in "'\\/@" or ord(c) < 32 for c in f"{table.database}{table.schema}{table.name}"):
            raise refuse("STAGE", "The name of the stage has characters that Hoop does not serve.")
        return Stage(table, path)

    def unexpected(self, wanted: str) -> StatementRefused:
        here = self.here
        where = "at the end" if here is None else f"at character {here.start + 1}"
        return self.refused(f"The statement is not served as it is written: {wanted} was expected {where}.")  # fmt: skip

    def refused(
        self, why: str, hint: str = "docs/policy.md shows what is served."
    ) -> StatementRefused:
        return refuse("UNSERVED_STATEMENT", why, hint)


def _split_stage(text: str) -> tuple[str, str, str]:
    """The sign, the name and the path: a slash inside quotes belongs to the name."""
    inside = False
    for i, c in enumerate(text):
        if c == '"':
            inside = not inside
        elif c == "/" and not inside:
            return text[:1], text[1:i], text[i:]
    return text[:1], text[1:], ""
