"""Reading YAML so that every complaint can name its file, its line and the nearest valid word."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from hoop_core.errors import ConfigError


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

    def integer(self, what: str, least: int, most: int) -> int:
        if isinstance(self.data, bool) or not isinstance(self.data, int):
            raise self.wrong(f"{what} must be a whole number.")
        if not least <= self.data <= most:
            raise self.wrong(f"{what} must be between {least} and {most}.")
        return self.data


class Fields(dict[str, Value]):
    """The known keys of a mapping."""


_MOST_CHARACTERS = 10_000_000
_MOST_NODES = 500_000
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
        if isinstance(node, yaml.MappingNode):
            waiting += [(part, depth + 1) for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(part, depth + 1) for part in node.value]


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
        except ValueError:
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
    except ValueError as e:  # a date such as 2026-13-99
        raise ConfigError(f"{source}:{_broken(node).start_mark.line + 1}: {e}.") from None
    finally:
        loader.dispose()
    return Value(data, node, source)
