"""Tables for auditors, as CSV. Their cells hold foreign text, and are opened in spreadsheets."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
"""A cell that begins so is a formula to a spreadsheet (https://owasp.org/www-community/attacks/CSV_Injection)."""


def cell(value: Any) -> str:
    """What stands in a cell: text as it is, save that it is never a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (dict, list, tuple)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = str(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


class TableFile:
    """One table that is written row by row; `columns` say what each row may have."""

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.file, self.columns, self.rows = file, tuple(columns), 0
        self._stream = file.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._stream)
        self._writer.writerow(self.columns)

    def add(self, row: Mapping[str, Any]) -> None:
        unknown = set(row) - set(self.columns)
        if unknown:
            raise KeyError(f"{self.file.name} has no column {sorted(unknown)}")
        self._writer.writerow([cell(row.get(column)) for column in self.columns])
        self.rows += 1

    def close(self) -> None:
        self._stream.close()
