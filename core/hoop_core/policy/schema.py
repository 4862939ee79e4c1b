"""The JSON Schema of the policy file, for editors. `hoop policy check` is stricter and names lines."""

from __future__ import annotations

from typing import Any

from hoop_core.masking.masks import MaskName
from hoop_core.model import Kind
from hoop_core.policy.file import MASK_OPTIONS, UNITS
from hoop_core.policy.model import Then

_PART = r'("[^"]+"|[A-Za-z_][A-Za-z0-9_$]*|\*)'
_OPTIONS: dict[str, dict[str, Any]] = {
    "value": {"type": ["string", "number", "boolean"], "description": "What is shown instead."},
    "domain": {"type": "string", "description": "Equal values hash alike within one domain only."},
    "keep_first": {"type": "integer", "minimum": 0, "maximum": 64},
    "keep_last": {"type": "integer", "minimum": 0, "maximum": 64},
    "unit": {"enum": list(UNITS)},
    "size": {"type": "number", "exclusiveMinimum": 0},
}


def _closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(required),
    }


def _names(parts: int) -> dict[str, Any]:
    pattern = "^" + r"\.".join([_PART] * parts) + "$"
    return {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": pattern}}


def json_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12."""
    words = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
    duration = {"type": "string", "pattern": "^[0-9]+ *[smhd]$", "examples": ["30m", "24h", "7d"]}
    text = {"type": "string", "minLength": 1}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hoop policy",
        **_closed(
            {
                "version": {"const": 1},
                "roles": {"type": "array", "items": _role(text, words)},
                "tags": {"type": "object", "additionalProperties": _names(4)},
                "masks": {"type": "array", "items": {"oneOf": [_mask(m, words) for m in MaskName]}},
                "rules": {"type": "array", "items": _rule(text, words, duration)},
            },
            "version",
        ),
    }


def _role(text: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    return _closed(
        {"groups": words, "vault_role": text, "snowflake_role": text, "warehouse": text},
        "groups",
        "vault_role",
        "snowflake_role",
    )


def _mask(name: MaskName, words: dict[str, Any]) -> dict[str, Any]:
    options = {key: _OPTIONS[key] for key in MASK_OPTIONS[name]}
    fields = {
        "tag": {"type": "string"},
        "columns": _names(4),
        "mask": {"const": name.value},
        "except_groups": words,
        **options,
    }
    return {
        **_closed(fields, "mask"),
        "oneOf": [{"required": ["tag"]}, {"required": ["columns"]}],
    }


def _rule(text: dict[str, Any], words: dict[str, Any], duration: dict[str, Any]) -> dict[str, Any]:
    approval = _closed(
        {
            "approvers": words,
            "quorum": {"type": "integer", "minimum": 1, "maximum": 20},
            "pending_for": duration,
            "valid_for": duration,
        },
        "approvers",
    )
    return _closed(
        {
            "name": text,
            "groups": words,
            "kinds": {"type": "array", "minItems": 1, "items": {"enum": [k.value for k in Kind]}},
            "reads": _names(3),
            "writes": _names(3),
            "when": {**text, "description": "CEL over statement, identity, run and now."},
            "then": {"enum": [t.value for t in Then]},
            "approval": approval,
        },
        "name",
        "then",
    )
