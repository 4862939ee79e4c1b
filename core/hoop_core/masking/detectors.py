"""What a personal or secret value looks like in text, and how it is cut out. Over whole columns at once.

Every detector is a regular expression that runs over a polars column without holding the interpreter,
cards and IBANs with their check digits on top. Cheap expressions pick the few values that are worth a
closer look. Text is first brought to plain form (full-width digits, typographic dashes, invisible
characters), so that a value does not escape by the way it is written.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import polars as pl
import pyarrow as pa

from hoop_core.masking import checksums
from hoop_core.model import Detector

_OTHER = r"[^\x00-\x7F]"
_EMAIL = (
    rf"[0-9A-Za-z_%+'{_OTHER}-][0-9A-Za-z._%+'{_OTHER}-]*@"
    rf"(?:[0-9A-Za-z{_OTHER}-]+\.)+[A-Za-z{_OTHER}]{{2,}}"
)
# Area 000 and 666, group 00 and serial 0000 are never issued (SSA, "Social Security Number
# Randomization"); area 9xx only as ITIN, with the groups of IRS publication 1915.
_AREA = "(?:00[1-9]|0[1-9][0-9]|[1-578][0-9]{2}|6[0-57-9][0-9]|66[0-57-9])"
_GROUP = "(?:0[1-9]|[1-9][0-9])"
_SERIAL = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_ITIN = "9[0-9]{2}"
_ITIN_GROUP = "(?:5[0-9]|6[0-5]|7[0-9]|8[0-8]|9[0-24-9])"
_SSN = "|".join(
    f"{area}{mark}{group}{mark}{_SERIAL}"
    for area, group in ((_AREA, _GROUP), (_ITIN, _ITIN_GROUP))
    for mark in "- "
)
_PHONE = "|".join(
    (
        r"\+[1-9](?:[ .()/-]{0,3}[0-9]){7,14}",  # E.164, 8 to 15 digits
        r"(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}",
        r"00[1-9][0-9]{0,2}[ /-](?:[ ()./-]{0,2}[0-9]){6,12}",
        r"0[1-9](?:[ .-][0-9]{2}){4}",
        r"\(?0[1-9][0-9]{1,3}\)?[ /-](?:[ .-]?[0-9]){6,8}",
    )
)
_PREFIXED_KEYS = "|".join(
    (
        r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b",  # AWS
        r"\bgh[pousr]_[0-9A-Za-z]{36,}",  # GitHub
        r"\bgithub_pat_[0-9A-Za-z_]{22,}",
        r"\bglpat-[0-9A-Za-z_-]{20,}",  # GitLab
        r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}",  # Slack
        r"\bxapp-[0-9A-Za-z-]{10,}",
        r"\bhooks\.slack\.com/services/[0-9A-Za-z/]{20,}",
        r"\b[rs]k_(?:live|test)_[0-9A-Za-z]{10,}",  # Stripe
        r"\bwhsec_[0-9A-Za-z]{20,}",
        r"\beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]*",  # JWT
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
        r"\bAIza[0-9A-Za-z_-]{35}",  # Google
        r"\bsk-[0-9A-Za-z_-]{20,}",  # OpenAI, Anthropic
        r"\bnpm_[0-9A-Za-z]{36}",
        r"\bhf_[0-9A-Za-z]{30,}",
        r"\bSG\.[0-9A-Za-z_-]{16,}\.[0-9A-Za-z_-]{16,}",  # SendGrid
    )
)
# One alternative for all that begin alike: a third faster than a list of the words.
_SOME_KEY = (
    r"A(?:KIA|SIA|BIA|CCA|Iza)|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|xapp-|hooks\.slack|"
    r"[rs]k_(?:live|test)_|whsec_|eyJ|-----BEGIN|sk-|npm_|hf_|SG\.|://"
)
_KEY_NAME = r"(?i:passw(?:or)?d|pwd|secret|token|(?:api|access|account|private)[_-]?key)"
_ASSIGNED = rf"{_KEY_NAME}[\"']?\s{{0,3}}[:=]"
_ASSIGNMENT_HINT = r"[A-Za-z][\"']?\s{0,3}[:=]\s{0,3}[\"']?[^\s]{6}"
# A value with a digit in it: "password: incorrect" is none.
_ASSIGNMENT = (
    rf"({_ASSIGNED}\s{{0,3}}[\"']?)"
    r"(?:[^\s\"',;<>\[\]{}]*[0-9][^\s\"',;<>\[\]{}]{5,}|[^\s\"',;<>\[\]{}]{5,}[0-9][^\s\"',;<>\[\]{}]*)"
)
_LOGIN = r"(://[^\s/:@\[\]]{1,64}:)[^\s/@\[\]]{3,}@"

CARD_RUN = r"(?:[A-Za-z_]|[0-9]\.)?[0-9](?:[ -]?[0-9]){12,}[A-Za-z_]?"
IBAN_RUN = r"\b[A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11,}\b"
_NUMBERS = r"[0-9](?:[ ()./A-Z-]{0,3}[0-9]){7}"

# Kinds that an expression alone decides: (expression, what is left of it). Order matters: what comes
# first takes its text away from the others.
_PLAIN: dict[Detector, tuple[tuple[str, str], ...]] = {
    Detector.TOKEN: (
        (_PREFIXED_KEYS, "[token]"),
        (_ASSIGNMENT, "${1}[token]"),
        (_LOGIN, "${1}[token]@"),
    ),
    Detector.EMAIL: ((_EMAIL, "[email]"),),
    Detector.SSN: ((rf"(^|[^0-9A-Za-z_-])(?:{_SSN})($|[^0-9A-Za-z_-])", "${1}[ssn]${2}"),),
    Detector.PHONE: ((rf"(^|[^0-9A-Za-z_+.-])(?:{_PHONE})($|[^0-9A-Za-z_])", "${1}[phone]${2}"),),
}
_ORDER = (
    Detector.TOKEN,
    Detector.EMAIL,
    Detector.IBAN,
    Detector.CARD,
    Detector.SSN,
    Detector.PHONE,
)
# What a value must show before the detector's own expression is tried on it.
_HINTS: dict[str, tuple[Detector, ...]] = {
    "@": (Detector.EMAIL,),
    _NUMBERS: (Detector.IBAN, Detector.CARD, Detector.SSN, Detector.PHONE),
    _SOME_KEY: (Detector.TOKEN,),
    _ASSIGNMENT_HINT: (Detector.TOKEN,),
}
# Kinds in whose text a later one could see something of its own.
_TAKES_AWAY = {Detector.TOKEN, Detector.IBAN, Detector.CARD}
_CLOSER = {
    Detector.CARD: CARD_RUN,
    Detector.IBAN: IBAN_RUN,
    **{kind: "|".join(f"(?:{pattern})" for pattern, _ in found) for kind, found in _PLAIN.items()},
}
_ROUNDS = 3
_SLICE = 1 << 17
"""Rows that one thread looks at."""

_FEW = 64 << 10
"""Characters of a column for which the start of polars' engine would cost more than the look itself."""
_PYTHON_HINTS = tuple((re.compile(hint, re.ASCII), kinds) for hint, kinds in _HINTS.items())

Kinds = Collection[Detector]
_Swept = tuple[pl.Series, dict[Detector, pl.Series]]


def find(
    texts: pl.Series, kinds: Kinds, first: Kinds = (), *, plain: bool = False
) -> dict[Detector, pl.Series]:
    """Which of `texts` hold which kind of value: one boolean column for each kind that occurs.

    What is of two kinds counts as the first of them. Kinds in `first` come before all others: none of the
    others takes away from them. `plain`: the texts are known to be in plain form.
    """
    before = [k for k in _ORDER if k in kinds and k in first]
    order = (*before, *(k for k in _ORDER if k in kinds and k not in before))
    if plain:
        return _sweep(texts, order, cut=False)[1]
    return _sliced(texts, lambda part: (part, _sweep(to_plain(part), order, cut=False)[1]))[1]


def possible(texts: Sequence[str | None], kinds: Kinds) -> frozenset[Detector] | None:
    """Those of `kinds` that a few texts could hold at all, by the hints alone.

    None when that cannot be told: text with escapes, or outside ASCII, is not in plain form yet.
    """
    # No hint looks for the start or end of a text, so one behind the other shows at least what each shows.
    text = "\n".join(filter(None, texts))
    if len(text) > _FEW or "\\" in text or not text.isascii():
        return None
    seen = frozenset(k for hint, ks in _PYTHON_HINTS if hint.search(text) for k in ks)
    return seen.intersection(kinds)


def redact(texts: pl.Series, kinds: Kinds) -> tuple[pl.Series, dict[Detector, pl.Series]]:
    """`texts` with every find replaced by its kind in brackets, and the finds.

    A text without a find comes back as it was. The result holds nothing that `find` finds.
    """
    order = tuple(k for k in _ORDER if k in kinds)
    return _sliced(texts, lambda part: _redact(part, order))


def _sliced(texts: pl.Series, work: Callable[[pl.Series], _Swept]) -> _Swept:
    """A long column in slices, on all cores: the expressions run without holding the interpreter."""
    if len(texts) <= _SLICE:
        return work(texts)
    slices = [texts.slice(at, _SLICE) for at in range(0, len(texts), _SLICE)]
    done = list(_pool().map(work, slices))
    found = {
        kind: pl.concat([
            own[kind] if kind in own else pl.zeros(len(part), pl.Boolean, eager=True)
            for part, own in done
        ])
        for kind in _ORDER
        if any(kind in own for _, own in done)
    }  # fmt: skip
    return pl.concat([part for part, _ in done]), found


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="detectors")


def _redact(texts: pl.Series, kinds: Sequence[Detector]) -> _Swept:
    cut, found = _sweep(to_plain(texts), kinds, cut=True)
    if not found:
        return texts, found
    rows = _any(found).arg_true()
    cut = cut.gather(rows)
    for _ in range(_ROUNDS):
        cut, left = _sweep(cut, kinds, cut=True)
        if not left:
            break
    else:
        # Pieces keep forming new finds: nothing of such a text is shown.
        label = f"[{kinds[0]}]"
        cut = cut.zip_with(~_any(left), pl.Series([label], dtype=pl.String))
    return _put(texts, rows, cut), found


def _sweep(texts: pl.Series, kinds: Sequence[Detector], *, cut: bool) -> _Swept:
    """One pass over plain texts, kind by kind in their order; with `cut`, what is found is taken out."""
    found: dict[Detector, pl.Series] = {}
    for kind, near in _candidates(texts, kinds).items():
        tried = texts.gather(near)
        holds = _holds(tried, kind)
        if not holds.any():
            continue
        rows = near.filter(holds)
        found[kind] = _put(pl.zeros(len(texts), pl.Boolean, eager=True), rows, True)
        if cut or kind in _TAKES_AWAY:
            texts = _put(texts, rows, _cut(tried.filter(holds), kind))
    return texts, found


def _candidates(texts: pl.Series, kinds: Sequence[Detector]) -> dict[Detector, pl.Series]:
    """For each kind the rows that are worth its own look, by two rounds of ever closer expressions."""
    wanted = {hint: [k for k in kinds if k in ks] for hint, ks in _HINTS.items()}
    wanted = {hint: ks for hint, ks in wanted.items() if ks}
    text = pl.col("t").str
    hints = texts.alias("t").to_frame().select(
        *(text.contains(h, literal=h == "@").fill_null(False).alias(h) for h in wanted)
    )  # fmt: skip
    rows: dict[Detector, list[pl.Series]] = {}
    for hint, ks in wanted.items():
        at = hints[hint].arg_true()
        near = texts.gather(at).alias("t").to_frame()
        closer = near.select(text.contains(_CLOSER[k]).alias(k) for k in ks)
        for kind in ks:
            rows.setdefault(kind, []).append(at.filter(closer[kind]))
    every = {k: pl.concat(rows[k]).unique(maintain_order=False).sort() for k in kinds if k in rows}
    return {kind: at for kind, at in every.items() if len(at)}


def _put(column: pl.Series, rows: pl.Series, values: pl.Series | bool) -> pl.Series:
    """A copy with other values in some rows: `scatter` itself changes its column."""
    return column.clone().scatter(rows, values)


def _holds(texts: pl.Series, kind: Detector) -> pl.Series:
    """For each of `texts`, none of them null, whether it holds a value of `kind`."""
    if kind in _PLAIN:
        frame, text = texts.alias("t").to_frame(), pl.col("t").str
        tests = [text.contains(pattern) for pattern, _ in _PLAIN[kind]]
        return frame.select(pl.any_horizontal(*tests)).to_series()
    holds, rest = _whole(texts, kind)
    if not len(rest):
        return holds
    runs = texts.gather(rest).str.extract_all(_RUNS[kind])
    each = pl.DataFrame({"at": rest, "run": runs}).explode("run")
    cut = _CHECKED[kind](each["run"])
    return _put(holds, each.filter(cut != each["run"])["at"].unique(), True)


def _whole(texts: pl.Series, kind: Detector) -> tuple[pl.Series, pl.Series]:
    """Which texts are one value of `kind` and nothing else; and the rows that need a closer look."""
    runs = texts.str.contains(_RUNS[kind])
    if kind is not Detector.CARD:
        return pl.zeros(len(texts), pl.Boolean, eager=True), runs.arg_true()
    numbers = texts.cast(pl.UInt64, strict=False)
    whole = pl.Series(checksums.card_numbers(numbers.fill_null(0).to_numpy()))
    return whole, (runs & numbers.is_null()).arg_true()


def _cut(texts: pl.Series, kind: Detector) -> pl.Series:
    if kind in _PLAIN:
        for pattern, left in _PLAIN[kind]:
            texts = texts.str.replace_all(pattern, left)
        return texts
    whole, rest = _whole(texts, kind)
    cut = texts.zip_with(~whole, pl.Series([f"[{kind}]"], dtype=pl.String))
    return _put(cut, rest, _cut_runs(texts.gather(rest), kind)) if len(rest) else cut


def _cut_runs(texts: pl.Series, kind: Detector) -> pl.Series:
    """Take each text apart at its runs, check every run, and put it together again."""
    frame, text = texts.alias("t").to_frame(), pl.col("t").str
    between = frame.select(text.split(_RUNS[kind], literal=False)).to_series()
    runs = texts.str.extract_all(_RUNS[kind])
    parts = pl.DataFrame({"between": between, "run": runs.list.concat(pl.Series([[""]]))})
    parts = parts.explode("between", "run")
    pieces = (parts["between"] + _CHECKED[kind](parts["run"])).to_arrow()
    ends = np.cumsum(between.list.len().to_numpy(), dtype=np.int64)
    lists = pa.LargeListArray.from_arrays(np.concatenate(([0], ends)), pieces)
    return pl.Series(lists).list.join("")


_RUNS = {Detector.CARD: CARD_RUN, Detector.IBAN: IBAN_RUN}
_CHECKED = {Detector.CARD: checksums.without_cards, Detector.IBAN: checksums.without_ibans}


def _any(found: dict[Detector, pl.Series]) -> pl.Series:
    return pl.DataFrame(found).select(pl.any_horizontal(pl.all())).to_series()


# -- plain form -----------------------------------------------------------------------------------
_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
_SPACES = "\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_DASHES = "\u2010-\u2015\u2043\u2212\u2e3a\u2e3b\ufe58\ufe63\uff0d"
_TYPESET = f"[{_INVISIBLE}{_SPACES}{_DASHES}]"
_FORMS = r"[\u2460-\u24ff\ufe50-\ufe6b\uff01-\uff5e\U0001d400-\U0001d7ff]|[\p{Nd}--[0-9]]"
# Typography alone hides nothing in a text that has neither enough digits nor the marks of the others.
_WORTH = r"[@=:_]|[0-9](?:[^0-9]{0,4}[0-9]){7}"


def to_plain(texts: pl.Series) -> pl.Series:
    """Digits of all scripts, full-width forms, dashes and spaces as ASCII; invisible ones left out."""
    if not (texts.str.len_bytes() != texts.str.len_chars()).any():
        return texts
    text = pl.col("t").str
    seen = texts.alias("t").to_frame().select(
        forms=text.contains(_FORMS), typeset=text.contains(_TYPESET) & text.contains(_WORTH)
    ).fill_null(False)  # fmt: skip
    forms = seen["forms"].arg_true()
    if len(forms):
        plain = texts.gather(forms).str.normalize("NFKC").str.replace_many(_digits())
        texts = _put(texts, forms, plain)
    typeset = (seen["forms"] | seen["typeset"]).arg_true()
    if not len(typeset):
        return texts
    plain = texts.gather(typeset).str.replace_all(f"[{_INVISIBLE}]", "")
    plain = plain.str.replace_all(f"[{_SPACES}]", " ").str.replace_all(f"[{_DASHES}]", "-")
    return _put(texts, typeset, plain)


@cache
def _digits() -> dict[str, str]:
    """Every decimal digit that is not ASCII, and its value (Unicode's category Nd)."""
    every = map(chr, range(128, sys.maxunicode + 1))
    return {c: str(unicodedata.decimal(c)) for c in every if unicodedata.category(c) == "Nd"}
