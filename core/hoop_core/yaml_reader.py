"""Reading YAML so that every complaint can name its file, its line and the nearest valid word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from hoop_core.errors import ConfigError

_T = TypeVar("_T")
_LINE = re.compile(r":(\d+): ")
_MOST_TOLD = 50


@dataclass(frozen=True, slots=True)
class Value:
    """A node of the document: what it holds and where it stands."""

    data: Any
    node: yaml.Node
    source: str

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    def wrong(self, message: str, hint: str = "") -> ConfigError:
        return ConfigError(f"{self.source}:{self.line}: {message}", hint)

    def unknown(self, what: str, word: str, valid: Collection[str]) -> ConfigError:
        """A word that is not among the valid ones, with the nearest of them."""
        near = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
        guess = f" Did you mean `{near[0]}`?" if near else ""
        return self.wrong(f"unknown {what} `{word}`.{guess}", f"Valid: {', '.join(valid)}.")

    def mapping(self, what: str, keys: Collection[str], required: Collection[str] = ()) -> Fields:
        """The entries of a mapping with known keys."""
        fields = self.entries(what)
        for name, (key, _) in fields.items():
            if name not in keys:
                raise key.unknown(f"key of {what}", name, keys)
        for name in required:
            if name not in fields:
                raise self.wrong(f"{what} needs `{name}`.")
        return Fields({name: value for name, (_, value) in fields.items()})

    def entries(self, what: str) -> dict[str, tuple[Value, Value]]:
        """The entries of a mapping with free keys: name -> (key, value)."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong(f"{what} must be a mapping (`key: value`).")
        found: dict[str, tuple[Value, Value]] = {}
        for key_node, value_node in self.node.value:
            key = _value(key_node, self.source)
            if not isinstance(key.data, str):
                raise key.wrong(f"a key of {what} must be a word.")
            if key.data in found:
                raise key.wrong(f"`{key.data}` is given twice.")
            found[key.data] = (key, _value(value_node, self.source))
        return found

    def items(self, what: str) -> Iterator[Value]:
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong(f"{what} must be a list.")
        if len(self.node.value) > _MOST_ITEMS:
            raise self.wrong(f"{what} has more than {_MOST_ITEMS:,} entries.")
        for node in self.node.value:
            yield _value(node, self.source)

    def text(self, what: str) -> str:
        if not isinstance(self.data, str) or not self.data.strip():
            raise self.wrong(f"{what} must be a text" + self._quoting_hint())
        return self.data

    def _quoting_hint(self) -> str:
        # an unquoted null is YAML's nothing
        return '; write "null" in quotes.' if self.data is None else "."

    def texts(self, what: str) -> tuple[str, ...]:
        """A list of texts that is not empty."""
        found = tuple(v.text(f"each of {what}") for v in self.items(what))
        if not found:
            raise self.wrong(f"{what} must not be empty.")
        return found

    def truth(self, what: str) -> bool:
        if not isinstance(self.data, bool):
            raise self.wrong(f"{what} must be true or false.")
        return self.data

    def integer(self, what: str, least: int, most: int) -> int:
        if isinstance(self.data, bool) or not isinstance(self.data, int):
            raise self.wrong(f"{what} must be a whole number.")
        if not least <= self.data <= most:
            raise self.wrong(f"{what} must be between {least} and {most}.")
        return self.data


class Fields(dict[str, Value]):
    """The known keys of a mapping."""


class Mistakes:
    """What is wrong with a document: the first mistake is raised, or all of them are gathered."""

    def __init__(self, *, first_only: bool = False) -> None:
        self._first_only = first_only
        self._found: list[ConfigError] = []

    def add(self, error: ConfigError) -> None:
        if self._first_only:
            raise error
        self._found.append(error)

    def read(self, read: Callable[[Value], _T], value: Value) -> _T | None:
        """None: it is wrong, and that is noted."""
        try:
            return read(value)
        except ConfigError as e:
            self.add(e)
            return None

    def each(self, value: Value, what: str, read: Callable[[Value], _T]) -> tuple[_T, ...]:
        """The items of a list that can be read."""
        items = self.read(lambda v: tuple(v.items(what)), value) or ()
        found = (self.read(read, item) for item in items)
        return tuple(item for item in found if item is not None)

    def mapping(
        self, value: Value, what: str, keys: Collection[str], required: Collection[str] = ()
    ) -> Fields:
        """As `Value.mapping`; the known keys where others are wrong."""
        if self._first_only:
            return value.mapping(what, keys, required)
        fields = value.entries(what)
        for name, (key, _) in fields.items():
            if name not in keys:
                self.add(key.unknown(f"key of {what}", name, keys))
        for name in required:
            if name not in fields:
                self.add(value.wrong(f"{what} needs `{name}`."))
        return Fields({name: given for name, (_, given) in fields.items() if name in keys})

    def told(self) -> None:
        """Raises ConfigError when there is any mistake."""
        found = sorted(self._found, key=_line_of)
        if len(found) == 1:
            raise found[0]
        if found:
            lines = [e.text for e in found[:_MOST_TOLD]]
            if len(found) > _MOST_TOLD:
                lines.append(f"and {len(found) - _MOST_TOLD} more.")
            raise ConfigError("\n".join(lines), f"({len(found)} mistakes)")


def _line_of(error: ConfigError) -> int:
    found = _LINE.search(error.message)
    return int(found[1]) if found else 0


_MOST_CHARACTERS = 10_000_000
_MOST_NODES = 500_000
_MOST_ITEMS = 10_000
_MOST_IN_A_TEXT = 1_000_000
_MOST_IN_A_NUMBER = 40
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_DEEPEST = 20


def read_document(text: str, source: str) -> Value:
    """The root of a YAML document. Raises ConfigError."""
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError(f"{source}: the file has more than {_MOST_CHARACTERS:,} characters.")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        line = f"{e.problem_mark.line + 1}: " if e.problem_mark else " "
        raise ConfigError(f"{source}:{line}not YAML: {e.problem}.") from None
    except yaml.YAMLError as e:
        raise ConfigError(f"{source}: not YAML: {e}.") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply to be read.") from None
    if node is None:
        raise ConfigError(f"{source}: the file is empty.")
    _check_size(node, source)
    return _value(node, source)


def _check_size(root: yaml.Node, source: str) -> None:
    """Aliases (`*name`) let a short text stand for an endless one: count what it comes to."""
    counted = 0
    waiting = [(root, 1)]
    while waiting:
        node, depth = waiting.pop()
        counted += 1
        line = int(node.start_mark.line) + 1
        if depth > _DEEPEST:
            raise ConfigError(f"{source}:{line}: nested deeper than {_DEEPEST} levels.")
        if counted > _MOST_NODES:
            raise ConfigError(f"{source}:{line}: more than {_MOST_NODES:,} entries.")
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node, f"{source}:{line}")
        if isinstance(node, yaml.MappingNode):
            waiting += [(part, depth + 1) for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(part, depth + 1) for part in node.value]


def _check_scalar(node: yaml.ScalarNode, place: str) -> None:
    """YAML 1.1 reads `1:30` as the number 90 (https://yaml.org/type/int.html), which nobody means; and what
    a number of many digits costs grows faster than they do.
    """
    if len(node.value) > _MOST_IN_A_TEXT:
        raise ConfigError(f"{place}: a text of more than {_MOST_IN_A_TEXT:,} characters.")
    if node.tag not in _NUMBERS:
        return
    if ":" in node.value:
        raise ConfigError(
            f"{place}: numbers with colons are not read.", "Write it in quotes if it is a text."
        )
    if len(node.value) > _MOST_IN_A_NUMBER:
        raise ConfigError(f"{place}: a number of more than {_MOST_IN_A_NUMBER} characters.")


def _broken(node: yaml.Node) -> yaml.Node:
    """The scalar of a node that cannot be read as what it looks like."""
    if isinstance(node, yaml.ScalarNode):
        return node
    parts = (
        [p for pair in node.value for p in pair]
        if isinstance(node, yaml.MappingNode)
        else node.value
    )
    for part in parts:
        loader = yaml.SafeLoader("")
        try:
            loader.construct_document(part)
        except Exception:
            return _broken(part)
        finally:
            loader.dispose()
    return node


def _value(node: yaml.Node, source: str) -> Value:
    loader = yaml.SafeLoader("")
    try:
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else node.start_mark.line + 1
        raise ConfigError(f"{source}:{line}: {e.problem}.") from None
    except Exception as e:
        # A date such as 2026-13-99, or a value that is not of its tag: PyYAML lets through whatever Python
        # raises for it. Its text may quote the value.
        line = _broken(node).start_mark.line + 1
        raise ConfigError(
            f"{source}:{line}: a value is not what it looks like or is tagged as ({type(e).__name__}).",
            "Correct it, or write it in quotes if it is a text.",
        ) from None
    finally:
        loader.dispose()
    return Value(data, node, source)
