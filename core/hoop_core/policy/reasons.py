"""The codes that a decision may give as its reasons: what `reason` of a case is checked against."""

from __future__ import annotations

CODES = (
    *("AMBIGUOUS_NAME", "APPROVAL_CONFLICT", "APPROVAL_REQUIRED", "APPROVAL_WINDOWS"),
    *("BACKTICK", "COLUMNS_UNKNOWN"),
    *("CONDITION_ERROR", "CTE_SHADOWS_PROTECTED", "DENIED_BY_RULE", "EMPTY", "GRANTED"),
    *("INDIRECT_NAME", "INDIRECT_TABLE", "INTERNAL", "MASKED", "MASK_NOT_APPLICABLE", "METADATA"),
    *("METADATA_OBJECT", "MULTI_STATEMENT", "NON_ASCII", "NOT_GRANTED", "NO_CURRENT_SCHEMA", "NUL"),
    *("POLICY_DRIFT", "QUALIFIED_FUNCTION", "REWRITE_MISMATCH", "ROW_FILTER", "ROW_FILTER_CLAIM"),
    *(
        "SAMPLE_OF_FILTERED",
        "SEQUENCE",
        "SESSION_PARAMETER",
        "SESSION_VARIABLE",
        "STAGE",
        "TABLE_FUNCTION",
        "TEMPORARY_NAME",
        "TOO_DEEP",
    ),
    *("TOO_LONG", "TOO_MANY_READS", "TOO_MANY_TOKENS", "UNKNOWN_FUNCTION", "UNKNOWN_OBJECT"),
    *("UNKNOWN_SYNTAX", "UNPARSEABLE", "UNREADABLE_TOKEN", "UNSERVED_COMMAND"),
    *("UNSERVED_STATEMENT", "USE_ROLE", "VERIFY_COMMAND", "VIEW_NOT_UNDERSTOOD"),
    "WRITE_TO_PROTECTED",
)
VERIFYING = "VERIFY_"
"""How the codes of the verifier begin; what follows names the check that failed."""


def known(code: str) -> bool:
    return code in CODES or code.startswith(VERIFYING)
