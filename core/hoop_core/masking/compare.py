"""Whether a sent text is, outside its masking subqueries, the caller's own statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hoop_core.masking.examine import (
    Reading,
    Spot,
    fail,
    stored_word,
)
from hoop_core.model import NameContext, TableName


class Comparison:
    """Word for word, with two cursors: `_at` in what is sent, `_from` in what the caller wrote."""

    def __init__(
        self,
        sent: Reading,
        theirs: list[str],
        names: NameContext,
        spots: Mapping[int, Spot],
        protected: frozenset[TableName],
    ) -> None:
        self._sent, self._names, self._theirs = sent, names, theirs
        self._spots, self._protected = spots, protected
        self._words = sent.words
        self._at = self._from = 0

    def run(self) -> None:
        """Raises StatementRefused (VERIFY_MEANING)."""
        for first, table in sorted(self._references()):
            self._same_until(first)
            self._reference(table, first)
        self._same_until(len(self._words))
        if self._from != len(self._theirs):
            raise _changed()

    def _references(self) -> Iterator[tuple[int, TableName]]:
        """Base tables in the sent text, and the word where each begins."""
        for node, parts in self._sent.tables:
            if len(parts) == 3:
                yield self._sent.at(node.args["catalog"]), TableName(*parts)

    def _same_until(self, stop: int) -> None:
        count = stop - self._at
        if self._words[self._at : stop] == self._theirs[self._from : self._from + count]:
            self._at, self._from = stop, self._from + count
            return
        while self._at < stop:
            self._skip_prefix()
            if self._words[self._at : self._at + 1] != self._theirs[self._from : self._from + 1]:
                raise _changed()
            self._at += 1
            self._from += 1

    def _skip_prefix(self) -> None:
        """`db.schema.t.c` of a masked table is sent as `t.c`."""
        if self._from and self._theirs[self._from - 1] == ".":
            return
        parts, end = _chain(self._theirs, self._from)
        if len(parts) in {3, 4} and _meant(parts[:-1], self._names) in self._protected:
            short = self._theirs[end - 3 : end]
            if self._words[self._at : self._at + 3] == short:
                self._from = end - 3

    def _reference(self, table: TableName, first: int) -> None:
        parts, end = _chain(self._theirs, self._from)
        if not 1 <= len(parts) <= 3 or _meant(parts, self._names) != table:
            raise _changed()
        self._at, self._from = first + 5, end
        spot = self._spots.get(first)
        if spot is None:
            return
        self._same_until(self._at + spot.moment)
        alias = ["AS", '"' + table.name.replace('"', '""') + '"']
        theirs = self._theirs[self._from : self._from + 2]
        if self._words[self._at : self._at + 2] == alias != theirs:
            self._at += 2
        if spot.sample:
            self._sample(spot.sample)

    def _sample(self, sample: tuple[str, ...]) -> None:
        """The caller's SAMPLE stood behind the alias, which takes at most two words."""
        for count in range(3):
            ahead = self._theirs[self._from : self._from + count]
            after = self._from + count
            if (
                self._words[self._at : self._at + count] == ahead
                and tuple(self._theirs[after : after + len(sample)]) == sample
            ):
                self._at += count
                self._from = after + len(sample)
                return
        raise _changed()


def _changed() -> Exception:
    return fail("MEANING", "more than the masking has changed")


def _chain(words: list[str], at: int) -> tuple[tuple[str, ...], int]:
    """The dotted name that begins at a word, in stored case, and where it ends. `db..t` means PUBLIC."""
    parts: list[str] = []
    while at < len(words) and (
        words[at][0] == '"' or words[at][0].isalpha() or words[at][0] == "_"
    ):
        parts.append(stored_word(words[at]))
        at += 1
        if words[at : at + 1] != ["."]:
            return tuple(parts), at
        at += 1
        if words[at : at + 1] == ["."]:
            parts.append("PUBLIC")
            at += 1
    return (), at


def _meant(parts: tuple[str, ...], names: NameContext) -> TableName:
    database, schema = names.database or "", names.schema or ""
    return TableName(*(database, schema)[: 3 - len(parts)], *parts)
