"""The last look at the text before it is sent. Shares no code with the rewriter.

It starts from the bytes that will be executed, reads them anew, and accepts them only if every pass
holds: each base table is one that was decided on, each protected one stands inside its exact masking
subquery, and everything else is, token for token, the caller's own statement. What the passes need to
know comes from the decision (plans, tables) and from that statement, never from the rewriter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from hoop_core.masking.compare import Comparison
from hoop_core.masking.examine import (
    Reading,
    Spot,
    fail,
    in_scope,
    is_name,
    is_sound,
    is_target,
    read,
    stored_word,
    take_out,
)
from hoop_core.masking.masks import TablePlan
from hoop_core.model import Statement, TableName
from hoop_core.sql.statement import Analysis, analyse


@dataclass(slots=True)
class Sent:
    """What is examined, and what it has to live up to. The trees are never changed."""

    sent: Reading
    """The text without its masking subqueries, which were taken out where `spots` says."""
    original: Analysis
    statement: Statement
    plans: Mapping[TableName, TablePlan] = field(repr=False)
    spots: dict[int, Spot]
    """By the index of the token where the name of the protected table begins."""


_LOOK_ALIKES = 8  # masking subqueries that a literal may hold: more than anybody would write


def verify(
    text: str,
    *,
    statement: Statement,
    plans: Mapping[TableName, TablePlan],
    original: Analysis | None = None,
) -> None:
    """Raise StatementRefused (VERIFY_*) unless the text is exactly the masked form of the statement.

    `original` saves reading the caller's statement again; it is only looked at.
    """
    plain, spots = take_out(text, plans, int(statement.facts["table_reads"]) + _LOOK_ALIKES)
    sent = read(plain)
    found = {sent.word_at(s.start): s for s in spots}
    examined = Sent(
        sent, original or analyse(statement.sql, statement.names), statement, plans, found
    )
    for check in PASSES:
        check(examined)


# --- the passes -------------------------------------------------------------------------------------


def check_single(sent: Sent) -> None:
    """One statement and nothing else: between its words there is at most one space, no comment."""
    tokens, text = sent.sent.tokens, sent.sent.text
    starts = [t.start for t in tokens[1:]]
    ends = [t.end for t in tokens[:-1]]
    if any(start - end > 2 for start, end in zip(starts, ends, strict=True)):
        raise fail("SINGLE", "it holds a comment, or more than a space between its words")
    if ";" in sent.sent.words:
        raise fail("SINGLE", "it holds a separator")
    if tokens[0].start != 0 or tokens[-1].end + 1 != len(text):
        raise fail("SINGLE", "something stands before or after the statement")


def check_tables(sent: Sent) -> None:
    """Base tables are exactly the decided ones, each fully qualified; other names are CTEs in scope."""
    reads: set[TableName] = set()
    writes: set[TableName] = set()
    for node, parts in sent.sent.tables:
        if len(parts) == 3:
            found = TableName(*parts)
            (writes if is_target(node) else reads).add(found)
        elif len(parts) != 1 or not in_scope(node, parts[0]):
            raise fail("TABLES", "a table is not fully qualified")
    if reads != set(sent.statement.reads) or writes != set(sent.statement.writes):
        raise fail("TABLES", "it names other tables than were decided upon")


def check_plans(sent: Sent) -> None:
    """What the masking subqueries show is what the masks promise, whoever wrote the plan."""
    for plan in sent.plans.values():
        if not is_sound(plan):
            raise fail("PLAN", f"a mask of {plan.table} does not hide its column")


def check_wrappers(sent: Sent) -> None:
    """Every read of a protected table, and nothing else, stood inside its masking subquery."""
    wrapped = set()
    for node, parts in sent.sent.tables:
        if len(parts) != 3 or TableName(*parts) not in sent.plans:
            continue
        spot = sent.spots.get(first := sent.sent.at(node.args["catalog"]))
        if spot is None or spot.table != TableName(*parts) or is_target(node):
            raise fail("WRAPPER", f"{TableName(*parts)} is read outside its masking subquery")
        wrapped.add(first)
    if wrapped != set(sent.spots):
        raise fail("WRAPPER", "a masking subquery stands where no table can stand")


def check_meaning(sent: Sent) -> None:
    """Without the masking subqueries it is, word for word, the caller's statement."""
    theirs = sent.original.words
    protected = frozenset(sent.plans)
    Comparison(sent.sent, theirs, sent.statement.names, sent.spots, protected).run()


def check_structure(sent: Sent) -> None:
    """The parser puts it together as it does the caller's statement."""
    ours, theirs = _skeleton(sent.sent.kinds), _skeleton(sent.original.kinds)
    if ours != theirs and any(s.sample for s in sent.spots.values()):
        ours, theirs = _without_samples(sent.sent.tree), _without_samples(sent.original.tree)
    if ours != theirs:
        raise fail("STRUCTURE", "it is put together differently from the statement")


def check_tokens(sent: Sent) -> None:
    """On the bare tokens, without any tree: a protected name in full occurs only as the inner table."""
    protected = {(t.database, t.schema, t.name) for t in sent.plans}
    bare = {t.name for t in sent.plans}
    spellings = {_quoted(n) for n in bare}
    tokens, words = sent.sent.tokens, sent.sent.words
    names = {w for w in set(words) if w in spellings or w.upper() in bare}
    for i in [i for i, w in enumerate(words) if w in names]:
        if not is_name(tokens[i]) or words[i + 1 : i + 2] == ["."]:
            continue
        chain = _chain(words, i)
        if chain in protected and i - 4 not in sent.spots:
            raise fail("TOKENS", f"{'.'.join(chain)} occurs outside its masking subquery")
        before = words[i - 1].upper() if i else ""
        alone = len(chain) == 1 and before in {"FROM", "JOIN", "UPDATE", "INTO", "USING", "TABLE"}
        if alone and chain[0] not in sent.sent.ctes:
            raise fail("TOKENS", f"{chain[0]} occurs without its database and schema")


PASSES: tuple[Callable[[Sent], None], ...] = (
    check_single,
    check_tables,
    check_plans,
    check_wrappers,
    check_meaning,
    check_structure,
    check_tokens,
)


def _chain(words: list[str], last: int) -> tuple[str, ...]:
    """The dotted name that ends at `last`, in stored case."""
    parts = [stored_word(words[last])]
    while last >= 2 and words[last - 1] == "." and words[last - 2][0] not in "'.":
        last -= 2
        parts.append(stored_word(words[last]))
    return tuple(reversed(parts))


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'


# Names lose or get prefixes and aliases: the comparison of words looks at those.
_NAMES = frozenset({exp.Identifier, exp.TableAlias})


def _skeleton(kinds: Iterable[type[exp.Expr]]) -> list[type[exp.Expr]]:
    return [kind for kind in kinds if kind not in _NAMES]


def _without_samples(tree: exp.Expr | None) -> list[type[exp.Expr]]:
    """A SAMPLE clause that moved into a masking subquery is not in what is left of the text."""
    nodes = tree.walk(prune=lambda node: type(node) is exp.TableSample) if tree else ()
    return _skeleton(kind for node in nodes if (kind := type(node)) is not exp.TableSample)
