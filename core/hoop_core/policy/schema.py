"""The JSON Schema of the policy file, for editors. `hoop policy check` is stricter and names lines."""

from __future__ import annotations

from typing import Any

from hoop_core.masking.masks import MaskName
from hoop_core.model import Detector, DetectorAction, Kind, Outcome, Scope
from hoop_core.policy.conditions import FIELDS
from hoop_core.policy.model import Then
from hoop_core.policy.predicates import IDENTITY_WORDS
from hoop_core.policy.sections import terms
from hoop_core.policy.sections.cases import RUN_KEYS
from hoop_core.policy.sections.masks import HASH_FUNCTION_FORM, MASK_OPTIONS, UNITS
from hoop_core.policy.sections.recordings import ALL, DIGEST, MOST_ROWS
from hoop_core.policy.sections.retention import FOREVER, KIND_FORM
from hoop_core.windows import DAYS

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
                "hash_function": {
                    "type": "string",
                    "pattern": HASH_FUNCTION_FORM,
                    "description": "What `hash` masks call: DATABASE.SCHEMA.FUNCTION.",
                },
                "masks": {
                    "type": "array",
                    "items": {"oneOf": [_mask(m, words, duration) for m in MaskName]},
                },
                "row_filters": {"type": "array", "items": _row_filter(text, words)},
                "detectors": {"type": "array", "items": _detector(words)},
                "recordings": {"type": "array", "items": _recording(words)},
                "retention": {"type": "array", "items": _retention(text, words)},
                "rules": {"type": "array", "items": _rule(text, words, duration)},
                "cases": {"type": "array", "items": _case(text)},
                "catalog": {
                    **text,
                    "description": "A catalog file for trying the policy out, relative to this file.",
                },
            },
            "version",
        ),
    }


def _role(text: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    return _closed(
        {
            "groups": words,
            "vault_role": text,
            "snowflake_role": text,
            "warehouse": text,
            "scope": {
                "enum": [s.value for s in Scope],
                "description": "For how long a minted user serves: a session, or one statement.",
            },
            "accounts": {
                **words,
                "description": "The Snowflake accounts it is for; all without it.",
            },
            "default": {
                "type": "boolean",
                "description": "The role of a caller who fits several and asks for none.",
            },
        },
        "groups",
        "vault_role",
        "snowflake_role",
    )


def _terms(
    words: dict[str, Any], duration: dict[str, Any], *, of_rule: bool = False
) -> dict[str, Any]:
    return _closed(
        {
            "approvers": words,
            "quorum": {"type": "integer", "minimum": 1, "maximum": 20},
            "pending_for": duration,
            "valid_for": duration,
            **(_offered_by_rules(words, duration) if of_rule else {}),
        },
        "approvers",
    )


def _offered_by_rules(words: dict[str, Any], duration: dict[str, Any]) -> dict[str, Any]:
    clock = {"type": "string", "pattern": f"^{terms.CLOCK}$", "examples": ["22:00"]}
    zone = {"type": "string", "minLength": 1, "examples": ["Europe/Berlin", "UTC"]}
    days = {"type": "array", "minItems": 1, "items": {"enum": list(DAYS)}}
    rows = {"type": "integer", "minimum": 0, "maximum": terms.MOST_ROWS}
    window = _closed(
        {"days": days, "from": clock, "to": clock, "timezone": zone}, "from", "to", "timezone"
    )
    return {
        "windows": {
            "type": "array",
            "items": window,
            "description": "When what was approved may run: in all of them at once.",
        },
        "break_glass": {
            **_closed({"groups": words, "valid_for": duration}, "groups"),
            "description": "Of whom one person alone may let it run in an emergency; others review that.",
        },
        "standing": {
            **_closed({"longest": duration, "rows_at_most": rows}, "longest", "rows_at_most"),
            "description": "A schedule's statement may be approved once for many runs.",
        },
    }


def _mask(name: MaskName, words: dict[str, Any], duration: dict[str, Any]) -> dict[str, Any]:
    options = {key: _OPTIONS[key] for key in MASK_OPTIONS[name]}
    fields = {
        "tag": {"type": "string"},
        "columns": _names(4),
        "mask": {"const": name.value},
        "except_groups": words,
        "exceptions": {
            **_terms(words, duration),
            "description": "Who may show these columns to a caller who asks, and for how long at most.",
        },
        **options,
    }
    return {
        **_closed(fields, "mask"),
        "oneOf": [{"required": ["tag"]}, {"required": ["columns"]}],
    }


def _detector(words: dict[str, Any]) -> dict[str, Any]:
    kinds = {"type": "array", "minItems": 1, "items": {"enum": [d.value for d in Detector]}}
    action = {"enum": [a.value for a in DetectorAction]}
    fields = {"detect": kinds, "action": action, "except_groups": words}
    return _closed(fields, "detect", "action")


def _recording(words: dict[str, Any]) -> dict[str, Any]:
    rows = {
        "oneOf": [
            {"enum": [ALL, DIGEST]},
            {"type": "integer", "minimum": 1, "maximum": MOST_ROWS},
        ],
        "description": "How many rows of a result are kept; its digest always is.",
    }
    return _closed({"rows": rows, "groups": words, "except_groups": words}, "rows")


def _retention(text: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    keep = {
        "type": "string",
        "pattern": f"^([0-9]+ *[smhd]|{FOREVER})$",
        "examples": ["90d", "2555d", FOREVER],
    }
    return _closed(
        {
            "name": text,
            "keep": {**keep, "description": "How long entries are kept, bodies and recordings."},
            "recordings": {**keep, "description": "How long recordings are; as `keep` without it."},
            "kinds": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "string", "pattern": f"^{KIND_FORM}$"},
            },
            "sessions": words,
            "groups": words,
            "accounts": words,
            "tags": words,
        },
        "name",
        "keep",
    )


def _row_filter(text: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    facts = "{identity." + "}, {identity.".join(IDENTITY_WORDS) + "} and {claims.NAME}"
    return _closed(
        {
            "table": _names(3)["items"],
            "where": {
                **text,
                "description": f"A SQL condition over the table's columns; {facts} stand for the caller.",
                "examples": [
                    "REGION = 'EU'",
                    "OWNER = {identity.subject}",
                    "R IN ({claims.regions})",
                ],
            },
            "groups": words,
            "except_groups": words,
        },
        "table",
        "where",
    )


def _case(text: dict[str, Any]) -> dict[str, Any]:
    texts = {"type": "array", "items": text}
    return _closed(
        {
            "name": text,
            "sql": text,
            "groups": texts,
            "subject": text,
            "claims": {
                "type": "object",
                "additionalProperties": {"anyOf": [text, texts]},
            },
            "account": text,
            "database": text,
            "schema": text,
            "run": _closed(dict.fromkeys(RUN_KEYS, text)),
            "at": {**text, "examples": ["2026-03-02T10:00:00Z"]},
            "expect": {"enum": [o.value for o in Outcome]},
            "reason": {**text, "examples": ["NOT_GRANTED"]},
            "masked": {
                **texts,
                "description": "All masked columns that it reads, by the last parts of their names.",
            },
            "filtered": {**texts, "description": "All tables whose rows are filtered."},
            "rewritten_contains": {**texts, "minItems": 1},
        },
        "name",
        "sql",
        "expect",
    )


def _rule(text: dict[str, Any], words: dict[str, Any], duration: dict[str, Any]) -> dict[str, Any]:
    return _closed(
        {
            "name": text,
            "accounts": words,
            "groups": words,
            "kinds": {"type": "array", "minItems": 1, "items": {"enum": [k.value for k in Kind]}},
            "reads": _names(3),
            "writes": _names(3),
            "when": {
                **text,
                "description": "CEL over "
                + "; ".join(
                    f"{holder} ({', '.join(f)})" if f else holder for holder, f in FIELDS.items()
                ),
            },
            "then": {"enum": [t.value for t in Then]},
            "approval": _terms(words, duration, of_rule=True),
        },
        "name",
        "then",
    )
