"""Settings as evidence: what a process runs with, without anything that could be a secret.

Withheld are the fields that are marked as such (`repr=False`), the values of tables in which anything may stand, and
what an address may carry beside its place (user, password, query).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

WITHHELD = "(withheld)"
_ADDRESS = re.compile(r"\A([A-Za-z][A-Za-z0-9+.:-]*://)([^/?#]*@)?([^?#]*)(.*)\Z", re.DOTALL)


def shown(settings: BaseModel) -> dict[str, Any]:
    """Plain JSON values by field."""
    return {
        name: _value(getattr(settings, name))
        if _told(field)
        else _withheld(getattr(settings, name))
        for name, field in type(settings).model_fields.items()
    }


def _told(field: FieldInfo) -> bool:
    """Not what is marked, and no table in which anything may stand."""
    return field.repr and not _anything(field.annotation)


def _anything(kind: Any) -> bool:
    return kind is Any or any(map(_anything, get_args(kind)))


def _withheld(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): WITHHELD for k in value}
    return WITHHELD if value else None


def _value(value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case BaseModel():
            return shown(value)
        case Mapping():
            return {str(k): _value(v) for k, v in value.items()}
        case tuple() | list():
            return [_value(v) for v in value]
        case set() | frozenset():
            return sorted(map(_value, value), key=str)
        case timedelta():
            return value.total_seconds()
        case Enum():
            return _address(str(value.value))
        case _:  # of pydantic's secret types this is asterisks
            return _address(str(value))


def _address(text: str) -> str:
    """An address without what may open it; any other text as it is."""
    parts = _ADDRESS.match(text)
    if parts is None:
        return text
    place, user, rest, more = parts.groups()
    return f"{place}{WITHHELD + '@' if user else ''}{rest}{'?' + WITHHELD if more else ''}"
