"""What a query can see: relations, the names that resolve to their columns, and sets of base columns.

A set of base columns is an integer with one bit for each column (`Columns` numbers them), so that the
union of two sets is one machine operation. Bit 0 means "and something that could not be traced".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hoop_core.model import TableName
from hoop_core.sql.catalog import Catalog

UNTRACED = 1
"""The mark in a set of columns that it may be incomplete."""

ALL = "*"
"""Stands in for a column's name where a table's columns are not known: any of them."""

MOST_OUTPUTS = 4_000
"""`SELECT a.*, b.* FROM x a, x b` doubles a list of columns: beyond this, outputs are not kept apart."""

MOST_UNLISTED = 1_000
"""Names of columns that no catalog lists, kept apart: beyond this, they count as any column."""

MOST_COLUMNS = 20_000
"""Columns of all tables that a statement names, kept apart: beyond this, they count as any column."""

Outputs = list[tuple[str, int]]


class Relation:
    """A table or a query's result: its columns by name and, where they are certain, by position.

    `rest` is what a name that is not listed may stand for: None when there is no such name, 0 upwards
    for columns without a name of their own and for columns that nobody knows.
    """

    __slots__ = ("_outputs", "columns", "everything", "positional", "rest", "table")

    def __init__(
        self,
        columns: dict[str, int],
        everything: int,
        *,
        rest: int | None = None,
        positional: bool = True,
        outputs: Outputs | None = None,
        table: TableName | None = None,
    ) -> None:
        self.columns = columns
        self.everything = everything
        self.rest = rest
        self.positional = positional
        self.table = table
        self._outputs = outputs

    @property
    def counted(self) -> bool:
        """Whether it is certain how many columns there are, and what they are called."""
        return self.positional or self._outputs is not None

    @property
    def outputs(self) -> Outputs:
        """In order where `positional`, else in some order. A column without a name of its own is ""."""
        if self._outputs is None:
            self._outputs = list(self.columns.items())
        return self._outputs


def of_outputs(outputs: Outputs) -> Relation:
    """A query's result whose columns are all known, in order."""
    if len(outputs) > MOST_OUTPUTS:
        everything = 0
        for mask in {m for _, m in outputs}:
            everything |= mask
        return opaque(everything)
    columns: dict[str, int] = {}
    everything, rest = 0, None
    for name, mask in outputs:
        everything |= mask
        if not name:
            rest = (rest or 0) | mask
        elif name in columns:
            columns[name] |= mask
        else:
            columns[name] = mask
    return Relation(columns, everything, rest=rest, outputs=outputs)


def opaque(everything: int) -> Relation:
    """A result of which only is known what it is made of."""
    return Relation({}, everything, rest=everything, positional=False)


def renamed(relation: Relation, names: list[str]) -> Relation:
    """`relation AS r(names)`."""
    if not names:
        return relation
    if not relation.positional or len(names) > len(relation.outputs):
        return opaque(relation.everything)
    old = relation.outputs
    return of_outputs(
        [(n, m) for n, (_, m) in zip(names, old, strict=False)] + old[len(names) :],
    )


def united(left: Relation, right: Relation, *, by_name: bool) -> Relation:
    """What a set operation gives: columns pair up by position and have the names of the left."""
    everything = left.everything | right.everything
    if by_name:
        columns = dict(left.columns)
        for name, mask in right.columns.items():
            columns[name] = columns.get(name, 0) | mask
        rests = [r.rest for r in (left, right) if r.rest is not None]
        rest = everything if rests else None
        return Relation(columns, everything, rest=rest, positional=False)
    if not (left.positional and right.positional and len(left.outputs) == len(right.outputs)):
        return opaque(everything)
    pairs = zip(left.outputs, right.outputs, strict=True)
    return of_outputs([(name, mask | other) for (name, mask), (_, other) in pairs])


class Columns:
    """The numbering of the columns of the base tables that one statement names."""

    def __init__(self, catalog: Catalog) -> None:
        self.everything = 0
        """All columns of all tables so far."""
        self.any_column = 0
        """The bits that stand for any column of a table whose columns are not known."""
        self._catalog = catalog
        self._bases: dict[TableName, Relation] = {}
        self._spans: list[tuple[TableName, int, tuple[str, ...]]] = []
        self._named: dict[tuple[TableName, str], int] = {}
        self._next = 1

    def base(self, table: TableName) -> Relation:
        """A base table as the catalog knows it."""
        found = self._bases.get(table)
        if found is None:
            found = self._base(table, tuple(self._catalog.columns(table) or ()))
            self._bases[table] = found
            self.everything |= found.everything
        return found

    def _base(self, table: TableName, names: tuple[str, ...]) -> Relation:
        if not names or self._next > MOST_COLUMNS:
            everything = self.named(table, ALL)
            return Relation({}, everything, rest=everything, positional=False, table=table)
        first = self._next
        self._next += len(names)
        self._spans.append((table, first, names))
        columns = {name: 1 << at for at, name in enumerate(names, first)}
        return Relation(columns, (1 << self._next) - (1 << first), table=table)

    @property
    def full(self) -> bool:
        """Whether names that no catalog lists are not kept apart any more."""
        return len(self._named) >= MOST_UNLISTED

    def any_of(self, tables: Collection[TableName]) -> int:
        """Any column of each of these tables."""
        mask = 0
        for table in tables:
            mask |= self.named(table, ALL)
        return mask

    def fresh(self) -> int:
        """A bit that stands for no column."""
        self._next += 1
        return 1 << (self._next - 1)

    def named(self, table: TableName, name: str) -> int:
        """A column that the catalog does not list: it may be newer than the catalog."""
        bit = self._named.get((table, name))
        if bit is None:
            if self.full and name != ALL:
                return self.named(table, ALL)
            bit = self._named[table, name] = self.fresh()
            if name == ALL:
                self.any_column |= bit
        return bit

    def read(self, mask: int) -> Iterator[tuple[TableName, tuple[str, ...]]]:
        """The columns of a set: of each table in its own order, then those that no catalog lists."""
        for table, first, names in self._spans:
            bits = (mask >> first) & ((1 << len(names)) - 1)
            if bits:
                yield table, tuple([n for at, n in enumerate(names) if bits >> at & 1])
        for (table, name), bit in self._named.items():
            if mask & bit:
                yield table, (name,)


class Scope:
    """The relations that one SELECT names, and the scope around it."""

    __slots__ = (
        "_any_open",
        "_any_table",
        "_by_alias",
        "_columns",
        "_open_tables",
        "_own",
        "_rest",
        "aliases",
        "merged",
        "names",
        "parent",
        "relations",
    )

    def __init__(self, columns: Columns, parent: Scope | None) -> None:
        self._columns = columns
        self.parent = parent
        self.relations: list[Relation] = []
        self.names: dict[str, int] = {}
        self.aliases: dict[str, int | None] = {}
        """Of the select list; None while the expression has not been looked at."""
        self.merged: set[str] = set()
        """USING or NATURAL: these columns of two relations show as one, at a place that is not certain."""
        self._by_alias: dict[str, list[Relation]] = {}
        self._open_tables: list[TableName] = []
        self._any_open: int | None = None
        self._any_table: int | None = None
        self._rest: int | None = None
        self._own = False

    def add(self, relation: Relation, alias: str) -> None:
        self.relations.append(relation)
        self._by_alias.setdefault(alias, []).append(relation)
        self._any_open = self._any_table = None
        if relation.rest is not None and relation.table is not None:
            self._open_tables.append(relation.table)
        elif relation.rest is not None:
            self._rest = (self._rest or 0) | relation.rest
        if len(self.relations) == 1:
            self.names = relation.columns  # shared until a second relation comes
            return
        if not self._own:
            self.names, self._own = dict(self.names), True
        if self.names.keys().isdisjoint(relation.columns):
            self.names.update(relation.columns)
        else:
            for name, mask in relation.columns.items():
                self.names[name] = self.names.get(name, 0) | mask

    def everything(self) -> int:
        mask = 0
        for relation in self.relations:
            mask |= relation.everything
        return mask

    def find(self, name: str) -> int | None:
        """What an unqualified name stands for, innermost scope first; None: nothing that is known.

        Columns come before aliases of the select list
        (https://docs.snowflake.com/en/sql-reference/sql/select#usage-notes). Where it is not certain
        that an inner scope has the name, outer scopes count too.
        """
        mask, hit = 0, False
        scope: Scope | None = self
        while scope is not None:
            if scope._open_tables:
                mask, hit = mask | scope._named_openly(name), True
            if scope._rest is not None:
                mask, hit = mask | scope._rest, True
            found = scope.names.get(name)
            if found is not None:
                return mask | found
            if name in scope.aliases:
                alias = scope.aliases[name]
                mask |= scope.everything() | UNTRACED if alias is None else alias
                hit = True
            scope = scope.parent
        return mask if hit else None

    def find_in(self, alias: str, name: str) -> int | None:
        """What `alias.name` stands for; None when no relation around has this alias."""
        called = self.called(alias)
        if not called:
            return None
        listed = [r.columns[name] for r in called if name in r.columns]
        mask = 0
        for found in listed or [self._unlisted(r, name) for r in called]:
            mask |= found
        return mask

    def _unlisted(self, relation: Relation, name: str) -> int:
        if relation.table is not None:
            return self._columns.named(relation.table, name)
        return relation.everything | UNTRACED if relation.rest is None else relation.rest

    def called(self, alias: str) -> list[Relation]:
        """The relations with an alias, innermost scope first."""
        scope: Scope | None = self
        while scope is not None:
            if alias in scope._by_alias:
                return scope._by_alias[alias]
            scope = scope.parent
        return []

    def narrowed(self, alias: str) -> Scope:
        """A scope with nothing in it but the relations of one alias."""
        scope = Scope(self._columns, None)
        for relation in self.called(alias):
            scope.add(relation, "")
        return scope

    def newer(self, name: str) -> int:
        """`name` as a column of any table around that the catalog may not list yet."""
        mask = 0
        scope: Scope | None = self
        while scope is not None:
            if self._columns.full:
                if scope._any_table is None:
                    scope._any_table = self._columns.any_of(scope._tables())
                mask |= scope._any_table
            else:
                for table in scope._tables():
                    mask |= self._columns.named(table, name)
            scope = scope.parent
        return mask

    def _tables(self) -> list[TableName]:
        return [r.table for r in self.relations if r.table is not None]

    def _named_openly(self, name: str) -> int:
        """`name` in the tables whose columns nobody knows."""
        if self._columns.full:
            if self._any_open is None:
                self._any_open = self._columns.any_of(self._open_tables)
            return self._any_open
        mask = 0
        for table in self._open_tables:
            mask |= self._columns.named(table, name)
        return mask
