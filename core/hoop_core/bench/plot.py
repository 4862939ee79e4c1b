"""Cost by length, drawn: bars for a terminal, SVG for a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hoop_core.errors import ConfigError

Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 400, 70, 50, 40


def slope(points: Points) -> float:
    """The straight line through the origin with the least squares."""
    return sum(x * y for x, y in points) / sum(x * x for x, _ in points)


def fit(points: Points) -> float:
    """R²: how much of the differences the straight line with an offset explains; 1 is all."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    across = sum((x - mean_x) * (y - mean_y) for x, y in points)
    spread_x = sum((x - mean_x) ** 2 for x, _ in points)
    spread_y = sum((y - mean_y) ** 2 for _, y in points)
    return across**2 / (spread_x * spread_y)


def bars(points: Points, width: int = 50) -> str:
    """One bar a point; `|` stands where the straight line through the origin would end."""
    most = max(*(y for _, y in points), slope(points) * max(x for x, _ in points))
    lines = [f"{'words':>7} {'ms':>9}"]
    for x, y in points:
        cells = list("█" * max(1, round(y / most * width))) + [" "] * width
        cells[min(width, round(slope(points) * x / most * width))] = "|"
        lines.append(f"{x:>7,.0f} {y:>9.2f} {''.join(cells).rstrip()}")
    return "\n".join(lines)


LENGTHS = ("Decide, rewrite and verify, by length", "words", "ms")


def write_svg(file: Path, points: Points, told: tuple[str, str, str] = LENGTHS) -> None:
    """The points, the line through them and the straight line. Raises ConfigError."""
    try:
        file.write_text(svg(points, told), encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"The plot cannot be written to {file}: {e.strerror}.") from None


def svg(points: Points, told: tuple[str, str, str] = LENGTHS) -> str:
    """`told`: the title, and the names of the two axes."""
    title, across_name, up_name = told
    most_x = max(x for x, _ in points)
    most_y = max(*(y for _, y in points), slope(points) * most_x)

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + x / most_x * (_WIDTH - _LEFT - 30)
        return round(across, 1), round(
            _HEIGHT - _BOTTOM - y / most_y * (_HEIGHT - _BOTTOM - _TOP), 1
        )

    line = " ".join(f"{a},{b}" for a, b in (place(x, y) for x, y in points))
    (x0, y0), (x1, y1) = place(0, 0), place(most_x, slope(points) * most_x)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{title} '
        f"(R² of a straight line: {fit(points):.4f})</text>",
        f'<path d="M{x0} {_TOP}V{y0}H{_WIDTH - 20}" fill="none" stroke="black"/>',
        f'<path d="M{x0} {y0}L{x1} {y1}" stroke="gray" stroke-dasharray="5 4"/>',
        f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="2"/>',
    ]
    for x, y in points:
        a, b = place(x, y)
        parts.append(f'<circle cx="{a}" cy="{b}" r="4" fill="#1f77b4"/>')
        parts.append(f'<text x="{a}" y="{b - 8}" text-anchor="middle">{y:.1f}</text>')
    for part in range(5):
        x, y = most_x * part / 4, most_y * part / 4
        (a, _), (_, b) = place(x, 0), place(0, y)
        parts.append(f'<text x="{a}" y="{y0 + 18}" text-anchor="middle">{x:,.0f}</text>')
        parts.append(f'<text x="{x0 - 8}" y="{b + 4}" text-anchor="end">{y:.0f}</text>')
    parts.append(
        f'<text x="{_WIDTH - 20}" y="{_HEIGHT - 12}" text-anchor="end">{across_name}</text>'
    )
    parts.append(f'<text x="{x0 - 8}" y="{_TOP - 8}" text-anchor="end">{up_name}</text></svg>')
    return "\n".join(parts)
