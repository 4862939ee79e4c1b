"""Check digits over whole columns: payment cards (Luhn, ISO/IEC 7812) and IBANs (mod 97, ISO 13616)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

_SHORTEST, _LONGEST = 13, 19
SHORTEST_CARD = 10 ** (_SHORTEST - 1)
_BATCH = 16_384
"""Runs looked at together: few enough that what is known of each digit stays in the cache."""
_BLOCK, _WIDEST = 1 << 18, 80
"""Bytes looked at together, and more of them than the longest card or IBAN takes with its gaps."""
_CARD, _IBAN = "[card]", "[iban]"

# First six digits (inclusive ranges) and the lengths that the network issues.
_NETWORKS: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (400000, 499999, (13, 16, 19)),  # Visa
    (510000, 559999, (16,)),  # Mastercard
    (222100, 272099, (16,)),
    (340000, 349999, (15,)),  # American Express
    (370000, 379999, (15,)),
    (300000, 305999, (14, 16, 19)),  # Diners Club
    (309500, 309599, (14, 16, 19)),
    (360000, 369999, (14, 16, 19)),
    (380000, 399999, (16, 17, 18, 19)),
    (601100, 601199, (16, 17, 18, 19)),  # Discover
    (644000, 659999, (16, 17, 18, 19)),
    (620000, 629999, (16, 17, 18, 19)),  # UnionPay
    (810000, 817199, (16, 17, 18, 19)),
    (352800, 358999, (16, 17, 18, 19)),  # JCB
    (500000, 509999, (13, 14, 15, 16, 17, 18, 19)),  # Maestro, Elo, RuPay
    (560000, 589999, (13, 14, 15, 16, 17, 18, 19)),
    (630000, 639999, (13, 14, 15, 16, 17, 18, 19)),
    (670000, 679999, (13, 14, 15, 16, 17, 18, 19)),
    (220000, 220499, (16, 17, 18, 19)),  # Mir
    (979200, 979289, (16,)),  # Troy
    (606282, 606282, (16, 19)),  # Hipercard
)


def _issued(prefixes: Any, length: int) -> Any:
    fits = np.zeros(len(prefixes), bool)
    for first, last, lengths in _NETWORKS:
        if length in lengths:
            fits |= (prefixes >= first) & (prefixes <= last)
    return fits


def card_numbers(values: Any) -> Any:
    """Which of the unsigned 64-bit `values` are card numbers: a network's range, and Luhn's digit."""
    fits = np.zeros(len(values), bool)
    for length in range(_SHORTEST, _LONGEST + 1):
        least, most = 10 ** (length - 1), 10**length - 1
        at = np.flatnonzero((values >= least) & (values <= most))
        if not len(at):
            continue
        at = at[_issued(values[at] // 10 ** (length - 6), length)]
        rest, total = values[at], np.zeros(len(at), np.uint64)
        for place in range(length):
            rest, digit = np.divmod(rest, np.uint64(10))
            doubled = digit * np.uint64(2)
            total += digit if place % 2 == 0 else doubled // np.uint64(10) + doubled % np.uint64(10)
        fits[at] = total % np.uint64(10) == 0
    return fits


def without_cards(runs: pl.Series) -> pl.Series:
    """Runs of digits with single spaces or dashes between them, cards cut out.

    A card is the whole run in any grouping, or a part of it that begins and ends with a group and is
    grouped as cards are. A group that touches a letter or stands behind a decimal point is no card.
    """
    bare = runs.str.replace_all("[ -]", "")
    whole = pl.Series(card_numbers(bare.cast(pl.UInt64, strict=False).fill_null(0).to_numpy()))
    cut = runs.zip_with(~whole, pl.Series([_CARD], dtype=pl.String))
    # Only what has groups can hold a card in a part of it.
    parted = (~whole & runs.str.contains("[0-9][ -][0-9]")).arg_true()
    return _without_windows(cut, runs, parted, _card_windows, _CARD)


_Windows = Callable[[Any], tuple[Any, Any]]


def _without_windows(
    cut: pl.Series, runs: pl.Series, rows: pl.Series, windows: _Windows, label: str
) -> pl.Series:
    """`cut` with each of `rows` as it is in `runs`, less what `windows` finds in it."""
    for at in range(0, len(rows), _BATCH):
        batch = rows.slice(at, _BATCH)
        some = runs.gather(batch)
        data = np.frombuffer("".join(f"{run}\n" for run in some).encode(), np.uint8)
        begins, ends = _in_blocks(data, windows)
        if len(begins):
            some = pl.Series(_spliced(data, begins, ends, label).split("\n")[:-1], dtype=pl.String)
        cut = cut.clone().scatter(batch, some)
    return cut


def _in_blocks(data: Any, windows: _Windows) -> tuple[Any, Any]:
    """First and one past the last byte of every find in `data`, lines of ASCII; none overlaps another.

    One run may be as long as a value can be, and what is known of its bytes takes a hundred times its
    room: so it is looked at block by block, each with enough on both sides to see a whole find.
    """
    begins, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for at in range(0, len(data), _BLOCK):
        first = max(0, at - _WIDEST)
        a, b = windows(data[first : at + _BLOCK + _WIDEST])
        own = (a >= at - first) & (a < at - first + _BLOCK)
        begins.append(a[own] + first)
        ends.append(b[own] + first)
    a, b = np.concatenate(begins), np.concatenate(ends)
    order = np.lexsort((-b, a))
    a, b = a[order], b[order]
    apart = a >= np.concatenate(([0], np.maximum.accumulate(b)))[: len(a)]
    return a[apart], b[apart]


def _card_windows(data: Any) -> tuple[Any, Any]:
    """First and one past the last byte of every card in `data`."""
    places = np.flatnonzero((data >= 48) & (data <= 57))
    digits = (data[places] - 48).astype(np.int64)
    before, after = _neighbours(data, places)
    gap = np.diff(places, prepend=-9)
    new_group = gap > 1
    new_run = (gap > 2) | ((gap == 2) & (before != 32) & (before != 45))
    group, run = np.cumsum(new_group), np.cumsum(new_run)
    opens = np.flatnonzero(new_group & ~_letter(before) & (before != 46))
    closes = np.append(new_group[1:], True) & ~_letter(after)
    sums = _luhn_sums(digits)
    found = []
    for length in range(_SHORTEST, _LONGEST + 1):
        a = opens[opens + length <= len(places)]
        b = a + length - 1
        fits = closes[b] & (run[a] == run[b])
        a, b = a[fits], b[fits]
        whole = new_run[a] & np.append(new_run, True)[b + 1]
        in_fours = (group[a] == group[a + 3]) & new_group[a + 4]
        prefixes = sum(digits[a + i] * 10 ** (5 - i) for i in range(6))
        fits = (whole | in_fours | (group[a] == group[b])) & _issued(prefixes, length)
        a, b = a[fits], b[fits]
        total = np.where(b % 2, sums[1][b + 1] - sums[1][a], sums[0][b + 1] - sums[0][a])
        found.append(np.stack((a, b))[:, total % 10 == 0])
    a, b = np.concatenate(found, axis=1)
    return places[a], places[b] + 1


def _neighbours(data: Any, places: Any) -> tuple[Any, Any]:
    """The bytes before and behind `places`; a line ends before and behind all."""
    padded = np.concatenate(([10], data, [10])).astype(np.uint8)
    return padded[places], padded[places + 2]


def _luhn_sums(digits: Any) -> tuple[Any, Any]:
    """Running sums of all digits, every other one doubled as Luhn does: the odd ones, the even ones."""
    doubled = np.where(digits > 4, digits * 2 - 9, digits * 2)
    even = np.arange(len(digits)) % 2 == 0
    return tuple(  # type: ignore[return-value]
        np.concatenate(([0], np.cumsum(np.where(even == plain, digits, doubled))))
        for plain in (True, False)
    )


def _letter(data: Any) -> Any:
    lower = data | 32
    return ((lower >= 97) & (lower <= 122)) | (data == 95)


def _spliced(data: Any, begins: Any, ends: Any, text: str) -> str:
    """`data` with `text` in place of every window."""
    label = np.frombuffer(text.encode(), np.uint8)
    inside = np.zeros(len(data) + 1, np.int8)
    inside[begins] = 1
    inside[ends] -= 1
    copies = np.where(np.cumsum(inside[:-1]) > 0, 0, 1)
    copies[begins] = len(label)
    out = np.repeat(data, copies)
    at = np.concatenate(([0], np.cumsum(copies)))[begins]
    out[(at[:, None] + np.arange(len(label))).ravel()] = np.tile(label, len(begins))
    return out.tobytes().decode()


# Country and length of its IBANs, as SWIFT's IBAN Registry has them.
_COUNTRIES = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22,
    "BI": 27, "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27,
    "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27,
    "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28,
    "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22,
    "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24,
    "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28,
    "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
_VALUES = {chr(65 + i): str(10 + i) for i in range(26)}
_INNER_START = r"[ -][A-Za-z]{2}[0-9]{2}"


def without_ibans(runs: pl.Series) -> pl.Series:
    """Runs of letters and digits with single spaces or dashes between them, IBANs cut out."""
    bare = runs.str.replace_all("[ -]", "").str.to_uppercase()
    length = bare.str.slice(0, 2).replace_strict(_COUNTRIES, default=None, return_dtype=pl.Int64)
    long_enough = (bare.str.len_bytes().cast(pl.Int64) >= length).fill_null(False)
    starts = pl.zeros(len(runs), pl.Boolean, eager=True)
    at = long_enough.arg_true()
    starts.scatter(at, _mod97(bare.gather(at).str.head(length.gather(at))) == 1)
    whole = starts & (bare.str.len_bytes().cast(pl.Int64) == length).fill_null(False)
    cut = runs.zip_with(~whole, pl.Series([_IBAN], dtype=pl.String))
    # The rest is rare: an IBAN with something behind it, or before it.
    odd = (~whole & (starts | runs.str.contains(_INNER_START))).arg_true()
    return _without_windows(cut, runs, odd, _iban_windows, _IBAN)


def _mod97(ibans: pl.Series) -> pl.Series:
    """The remainder that ISO 7064 MOD 97-10 asks for; 1 is right."""
    moved = ibans.str.slice(4) + ibans.str.head(4)
    numbers = moved.str.replace_many(_VALUES)
    rest = pl.Series([""], dtype=pl.String).new_from_index(0, len(ibans))
    for at in range(0, 68, 9):
        rest = ((rest + numbers.str.slice(at, 9)).cast(pl.UInt64) % 97).cast(pl.String)
    return rest.cast(pl.Int64)


_LENGTH_OF = np.zeros(26 * 26, np.int64)
for _country, _length in _COUNTRIES.items():
    _LENGTH_OF[(ord(_country[0]) - 65) * 26 + ord(_country[1]) - 65] = _length


def _iban_windows(data: Any) -> tuple[Any, Any]:
    """First and one past the last byte of every IBAN in `data`."""
    upper = np.where((data >= 97) & (data <= 122), data - 32, data)
    digit, letter = (upper >= 48) & (upper <= 57), (upper >= 65) & (upper <= 90)
    line = np.cumsum(upper == 10)
    places = np.flatnonzero(digit | letter)
    values = np.where(digit, upper - 48, upper - 55)[places].astype(np.int64)
    before, after = _neighbours(digit | letter, places)
    line, together = line[places], np.diff(places, append=len(data) + 9) == 1
    # Two letters, two digits, and nothing between them.
    a = np.flatnonzero(before != 1)
    a = a[a + 14 < len(places)]
    for i, kind in enumerate((letter, letter, digit, digit)):
        a = a[kind[places[a + i]]]
        a = a[together[a + i]] if i < 3 else a
    length = _LENGTH_OF[(values[a] - 10) * 26 + values[a + 1] - 10]
    b = a + length - 1
    fits = (length > 0) & (b < len(places))
    a, b, length = a[fits], b[fits], length[fits]
    fits = (after[b] != 1) & (line[a] == line[b])
    a, b, length = a[fits], b[fits], length[fits]
    rest = np.zeros(len(a), np.int64)
    for i in range(max(_COUNTRIES.values())):
        # The first four characters count last: ISO 7064 MOD 97-10.
        value = values[
            np.where(i < length - 4, a + 4 + i, a + 4 + i - length).clip(0, len(values) - 1)
        ]
        added = (rest * np.where(value > 9, 100, 10) + value) % 97
        rest = np.where(i < length, added, rest)
    right = rest == 1
    return places[a[right]], places[b[right]] + 1
