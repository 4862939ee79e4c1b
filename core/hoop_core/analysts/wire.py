"""What goes over the pipe between the gateway and an analysis worker.

Frames with a length in front. Towards the worker they are pickles: the gateway is trusted. Back from the
worker come JSON values that are checked against the types they must become: the worker has read a hostile
text, and a pickle from there could run anything here.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import socket
import struct
import types
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from hoop_core.model import TableName, Verdict

T = TypeVar("T")
Decoder = Callable[[Any], Any]

LENGTH = struct.Struct("!I")
MOST_ASKED = 64 * 1024 * 1024
MOST_ANSWERED = 32 * 1024 * 1024
"""Bytes of one frame. A rewritten text is at most some megabytes: 200 tables of many masked columns."""


class WireError(Exception):
    """A frame is not what it must be. The text quotes nothing of it."""


# ------------------------------------------------------------------ gateway to worker


@dataclasses.dataclass(frozen=True, slots=True)
class LoadPolicy:
    """Read a policy anew from its text, and drop the ones that the gateway will not name again."""

    key: str
    account: str | None
    text: str
    source: str
    drop: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """Judge a statement. `arguments` go to `judge.judging`; `known` is what is known of the catalog."""

    policy: str
    arguments: dict[str, Any]
    known: dict[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Tell:
    """What there is of the objects that were wanted: name -> CatalogObject or None."""

    objects: dict[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """Forget the statement under analysis: the gateway asks again later. There is no answer."""


def packed(message: LoadPolicy | Ask | Tell | Drop) -> bytes:
    """A frame for the worker. Raises WireError when it is too long."""
    return framed(pickle.dumps(message, pickle.HIGHEST_PROTOCOL), MOST_ASKED)


def framed(payload: bytes, most: int) -> bytes:
    if len(payload) > most:
        raise WireError(f"a message of {len(payload)} bytes is too long")
    return LENGTH.pack(len(payload)) + payload


def receive(pipe: socket.socket, most: int) -> bytes | None:
    """The next frame from a blocking socket; None at its end. Raises WireError."""
    head = _exactly(pipe, LENGTH.size)
    if head is None:
        return None
    (size,) = LENGTH.unpack(head)
    if size > most:
        raise WireError(f"a message of {size} bytes is too long")
    return _exactly(pipe, size)


def _exactly(pipe: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = pipe.recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


# ------------------------------------------------------------------ worker to gateway


class Says(StrEnum):
    """What an answer is about."""

    READY = "ready"  # imports are done; the first question finds a warm process
    LOADED = "loaded"  # the policy was read and is the one that was meant
    WANTED = "wanted"  # the analysis has to know these objects
    VERDICT = "verdict"
    UNUSABLE = "unusable"  # the policy cannot be read, or is another one


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    says: Says
    wanted: tuple[TableName, ...] = ()
    """What has to be told; with a verdict: everything that had to be known for it."""
    verdict: Verdict | None = None
    """Without the text of the statement, which the gateway has and need not believe."""
    peak_mb: int = 0
    """Most memory that the worker has ever held."""


def to_json(value: Any) -> bytes:
    """Frozen values as JSON: a dataclass is the list of its fields."""
    return json.dumps(value, default=_plain, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return [getattr(value, f.name) for f in dataclasses.fields(value) if f.init]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def from_json(wanted: type[T], payload: bytes) -> T:
    """The value of type `wanted` that `payload` is. Raises WireError for anything else."""
    try:
        decode = decoder(wanted)
        value: T = decode(json.loads(payload))
    except (ValueError, RecursionError, KeyError, TypeError, OverflowError):
        raise WireError("an answer is not of the form it must have") from None
    return value


_decoders: dict[Any, Decoder] = {}


def decoder(kind: Any) -> Decoder:
    """What turns plain JSON into a value of `kind`, or raises ValueError."""
    found = _decoders.get(kind)
    if found is None:
        found = _decoders[kind] = _make(kind)
    return found


def _make(kind: Any) -> Decoder:
    origin = get_origin(kind)
    if origin in {Union, types.UnionType}:
        return _any_of([decoder(k) for k in get_args(kind)])
    if origin is tuple:
        return _tuple(get_args(kind))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(*get_args(kind))
    if kind is types.NoneType:
        return _exact_type(types.NoneType)
    if kind in {str, int, bool}:
        return _exact_type(kind)
    if kind is float:
        return _number
    if kind is timedelta:
        return lambda value: timedelta(seconds=_number(value))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return lambda value: kind(_exact_type(str)(value))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(kind)
    raise TypeError(f"{kind} has no form on the wire")


def _exact_type(kind: type) -> Decoder:
    def decode(value: Any) -> Any:
        if type(value) is not kind:  # True is no number here
            raise ValueError
        return value

    return decode


def _number(value: Any) -> float:
    if type(value) not in {int, float}:
        raise ValueError
    return float(value)


def _any_of(options: list[Decoder]) -> Decoder:
    def decode(value: Any) -> Any:
        for option in options:
            try:
                return option(value)
            except (ValueError, TypeError):
                continue
        raise ValueError

    return decode


def _tuple(of: tuple[Any, ...]) -> Decoder:
    if len(of) == 2 and of[1] is Ellipsis:
        each = decoder(of[0])

        def decode_all(value: Any) -> Any:
            if type(value) is not list:
                raise ValueError
            return tuple([each(v) for v in value])

        return decode_all
    parts = [decoder(k) for k in of]

    def decode(value: Any) -> Any:
        if type(value) is not list or len(value) != len(parts):
            raise ValueError
        return tuple([d(v) for d, v in zip(parts, value, strict=True)])

    return decode


def _mapping(key: Any, of: Any) -> Decoder:
    if key is not str:
        raise TypeError("keys are texts on the wire")
    each = decoder(of)

    def decode(value: Any) -> Any:
        if type(value) is not dict:
            raise ValueError
        return {k: each(v) for k, v in value.items()}

    return decode


def _record(kind: type) -> Decoder:
    hints = get_type_hints(kind)
    parts = [decoder(hints[f.name]) for f in dataclasses.fields(kind) if f.init]

    def decode(value: Any) -> Any:
        if type(value) is not list or len(value) != len(parts):
            raise ValueError
        return kind(*[d(v) for d, v in zip(parts, value, strict=True)])

    return decode
