"""How fast the detectors read string columns, with presidio-analyzer's pattern recognisers beside them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from hoop_core.bench.figures import timed
from hoop_core.masking.detect import scan
from hoop_core.model import Detector, Json

_WORDS = (
    "order", "shipped", "late", "again", "customer", "asked", "about", "invoice", "refund", "delivery",
    "window", "north", "region", "please", "call", "back", "monday", "account", "closed", "renewal",
)  # fmt: skip
_RIVALS = {
    "EmailRecognizer": "EMAIL_ADDRESS", "CreditCardRecognizer": "CREDIT_CARD",
    "UsSsnRecognizer": "US_SSN", "IbanRecognizer": "IBAN_CODE", "PhoneRecognizer": "PHONE_NUMBER",
}  # fmt: skip
_RIVAL_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Column:
    """A column of text; `make` gives the value of a row."""

    name: str
    make: Callable[[random.Random, int], str]


def _sentence(rng: random.Random, _row: int) -> str:
    return " ".join(rng.choices(_WORDS, k=9))


def _note(rng: random.Random, row: int) -> str:
    text = _sentence(rng, row)
    return f"{text} jane.{row}@corp.com" if row % 20 == 0 else text


COLUMNS = (
    Column("free text, nothing in it", _sentence),
    Column("free text, an e-mail in 5 %", _note),
    Column("e-mail addresses", lambda rng, row: f"user{row}.{rng.randrange(10**6)}@corp.com"),
    Column("hexadecimal identifiers", lambda rng, row: f"{rng.getrandbits(96):024x}"),
    Column("names, 1,000 distinct", lambda rng, row: f"Customer number {rng.randrange(1000)}"),
    Column("digits with dashes", lambda rng, row: f"{rng.randrange(10**4):04d}-{row:08d}-77"),
)


def detectors(rows: int) -> list[Json]:
    """MB/s (10^6 bytes of text) over columns of `rows` values, all kinds of detectors at once."""
    rival = _rival()
    found = []
    for column in COLUMNS:
        rng = random.Random(11)  # noqa: S311  data to measure with
        values = [column.make(rng, row) for row in range(rows)]
        batch = pa.record_batch([pa.array(values)], names=["T"])
        megabytes = sum(map(len, values)) / 1e6
        scan(batch.slice(0, 1000), tuple(Detector))
        taken = min(timed(lambda: scan(batch, tuple(Detector))) for _ in range(3))  # noqa: B023
        row: Json = {
            "column": column.name,
            "rows": rows,
            "MB": round(megabytes, 1),
            "hoop_MB_s": round(megabytes / taken, 1),
        }
        found.append(row | _beside(rival, values[:_RIVAL_ROWS], megabytes / taken))
    return found


def _beside(rival: Callable[[str], Any] | None, values: list[str], ours: float) -> Json:
    if rival is None:
        return {"presidio_MB_s": "not installed", "ratio": None}
    taken = timed(lambda: [rival(v) for v in values])
    theirs = sum(map(len, values)) / 1e6 / taken
    return {"presidio_MB_s": round(theirs, 2), "ratio": round(ours / theirs)}


def _rival() -> Callable[[str], Any] | None:
    """presidio's pattern recognisers for the same kinds, on one text; None where it is not installed."""
    if find_spec("presidio_analyzer") is None:
        return None
    module = import_module("presidio_analyzer.predefined_recognizers")
    recognisers = [(getattr(module, name)(), [entity]) for name, entity in _RIVALS.items()]

    def analyse(text: str) -> list[Any]:
        return [r.analyze(text, entities, None) for r, entities in recognisers]

    analyse("jane@corp.com 4111111111111111")  # the first call loads what they need
    return analyse
