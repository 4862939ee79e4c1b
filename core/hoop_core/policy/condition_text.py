"""The text of a condition, taken apart just far enough to say what is wrong with which part of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_OPENING, _CLOSING = "([{", ")]}"
_WORDS = {"and": "&&", "or": "||", "not": "!", "AND": "&&", "OR": "||", "NOT": "!", "<>": "!="}
_BARE = re.compile(r"\b(?:and|or|not|AND|OR|NOT)\b|<>")
_ASSIGNMENT = re.compile(r"(?<![=!<>])=(?![=])")
_FIRST_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?([^\n]*)")
_TOKEN = re.compile(r"(?:input|recognition error at:) '(.*?)'(?: expecting .*)?\Z")


def without_strings(source: str) -> str:
    """The same, of the same length, with nothing in its string literals."""
    return STRING.sub(lambda m: m[0][0] + " " * (len(m[0]) - 2) + m[0][0], source)


def syntax_error(source: str, complaint: str) -> tuple[str, str]:
    """What the CEL parser says, shortened: where in the condition, what stands there; and a hint."""
    hint = _hint(source)
    found = _FIRST_ERROR.search(complaint)
    if found is None:
        return "it cannot be parsed", hint
    line, column, said = int(found[1]), int(found[2]), found[3]
    where = f"column {column}" if "\n" not in source.strip() else f"line {line}, column {column}"
    token = _TOKEN.search(said)
    if token is None:
        return f"at {where}: {said}", hint
    if token[1] == "<EOF>":
        return f"at {where}: it ends too early", hint
    if token[1][:1] in "'\"" and said.startswith("token"):
        return f"at {where}: the text {token[1]} has no closing quote", hint
    return f"at {where}: `{token[1].strip()}` is not expected", hint


def _hint(source: str) -> str:
    bare = without_strings(source)
    words = sorted({m[0] for m in _BARE.finditer(bare)})
    hints = [f"`{_WORDS[w]}` for `{w}`" for w in words]
    if _ASSIGNMENT.search(bare):
        hints.append("`==` for `=`")
    return f"CEL writes {', '.join(hints)}." if hints else ""


def operands(source: str) -> Iterator[tuple[str, bool]]:
    """The parts that `&&`, `||` and `? :` join, each alone, and whether it must be true or false.

    They are tried one by one, because a part whose neighbour decides is not evaluated at all.
    """
    yield from _operands(source, truth=True)


def _operands(source: str, *, truth: bool) -> Iterator[tuple[str, bool]]:
    text = _unwrapped(source.strip())
    bare = without_strings(text)
    asking = _at_top(bare, ("?",))
    if asking:
        first = asking[0][0]
        colon = _matching_colon(bare, first)
        if colon is None:
            yield text, truth
            return
        yield from _operands(text[:first], truth=True)
        yield from _operands(text[first + 1 : colon], truth=truth)
        yield from _operands(text[colon + 1 :], truth=truth)
        return
    joints = _at_top(bare, ("||",)) or _at_top(bare, ("&&",))
    if not joints:
        yield text, truth
        return
    start = 0
    for at, length in (*joints, (len(text), 0)):
        yield from _operands(text[start:at], truth=True)
        start = at + length


def _unwrapped(text: str) -> str:
    """Without parentheses around the whole."""
    while text.startswith("(") and text.endswith(")"):
        depth = 0
        for at, c in enumerate(without_strings(text)):
            depth += (c in _OPENING) - (c in _CLOSING)
            if depth == 0 and at < len(text) - 1:
                return text
        text = text[1:-1].strip()
    return text


def _at_top(bare: str, operators: tuple[str, ...]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    depth = 0
    for at, c in enumerate(bare):
        depth += (c in _OPENING) - (c in _CLOSING)
        found += [(at, len(o)) for o in operators if depth == 0 and bare.startswith(o, at)]
    return found


def _matching_colon(bare: str, question: int) -> int | None:
    depth = open_questions = 0
    for at in range(question + 1, len(bare)):
        c = bare[at]
        depth += (c in _OPENING) - (c in _CLOSING)
        if depth == 0 and c == "?":
            open_questions += 1
        elif depth == 0 and c == ":":
            if open_questions == 0:
                return at
            open_questions -= 1
    return None
