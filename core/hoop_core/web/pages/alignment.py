"""What two lists have in common, in order: Myers, An O(ND) Difference Algorithm and Its Variations (1986).

What stands in one list only is left out first: it is in no common part, and most changes are of that kind.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

_MOST_STEPS = 300_000
"""A tenth of a second; the lists come from strangers."""
Pairs = list[tuple[int, int]]


def aligned(a: Sequence[Hashable], b: Sequence[Hashable]) -> Pairs | None:
    """Indices of equal items, as many as there can be; None where finding them would cost too much."""
    both = set(a) & set(b)
    old = [i for i, item in enumerate(a) if item in both]
    new = [k for k, item in enumerate(b) if item in both]
    number = {
        item: n for n, item in enumerate(both)
    }  # numbers are compared faster than what they stand for
    found = _common([number[a[i]] for i in old], [number[b[k]] for k in new])
    return None if found is None else [(old[i], new[k]) for i, k in found]


def _common(a: list[int], b: list[int]) -> Pairs | None:
    """Forward, one more edit a round; `reached[k]` is how far diagonal k has come in `a`."""
    most = len(a) + len(b)
    reached = {1: 0}
    rounds: list[dict[int, int]] = []
    steps = _MOST_STEPS
    for edits in range(most + 1):
        came: dict[int, int] = {}
        for k in range(-edits, edits + 1, 2):
            i = _start(reached, k, edits)
            begun = i
            while i < len(a) and i - k < len(b) and a[i] == b[i - k]:
                i += 1
            came[k] = i
            steps -= 1 + i - begun
            if i >= len(a) and i - k >= len(b):
                return _back(rounds, len(a), len(b))
        rounds.append(came)
        reached = came
        if steps < 0:
            return None
    return []


def _start(reached: dict[int, int], k: int, edits: int) -> int:
    """Where diagonal k begins in this round: below the one above it, or beside the one below."""
    down = k == -edits or (k != edits and reached[k - 1] < reached[k + 1])
    return reached[k + 1] if down else reached[k - 1] + 1


def _back(rounds: list[dict[int, int]], i: int, j: int) -> Pairs:
    """From the end to the beginning along what was reached."""
    found: Pairs = []
    for edits in range(len(rounds), -1, -1):
        before = rounds[edits - 1] if edits else {1: 0}
        k = i - j
        start = _start(before, k, edits)
        while i > start:
            i, j = i - 1, j - 1
            found.append((i, j))
        if edits:
            down = k == -edits or (k != edits and before[k - 1] < before[k + 1])
            i, j = (start, start - k - 1) if down else (start - 1, start - k)
    found.reverse()
    return found
