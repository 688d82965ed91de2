"""A bar chart as an SVG file, in the style of the documentation's other pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 960, 210, 90
BAR, GAP = 16, 26
INK, QUIET = "#1f2328", "#57606a"
OURS, THEIRS = (
    ("#0969da", "#54aeff", "#1a7f37", "#4ac26b", "#aceebb", "#dafbe1", "#8250df", "#c297ff"),
    ("#9a6700", "#d4a72c", "#bc4c00", "#fb8f44"),
)
"""Colours of our configurations, cool, and of the peers', warm."""

Bar = tuple[float, float, float]
"""What is drawn, and the lowest and the highest of the rounds."""


def write_bars(file: Path, groups: Mapping[str, Mapping[str, Bar]], *, unit: str, label: str) -> None:
    """Write groups of bars, one bar for each name; a thin line over a bar's end shows the spread over the rounds."""
    colours = _colours([name for bars in groups.values() for name in bars])
    top = max(high for bars in groups.values() for _, _, high in bars.values())
    scale = (WIDTH - LEFT - RIGHT) / top
    parts, y = [], 20
    for group, bars in groups.items():
        parts.append(f'<text x="16" y="{y + 13}" font-weight="600" fill="{INK}">{escape(group)}</text>')
        for name, bar in bars.items():
            parts += _bar(name, bar, y, scale, colours[name])
            y += BAR + 4
        y += GAP
    parts.append(f'<text x="{WIDTH - 16}" y="{y}" text-anchor="end" fill="{QUIET}">{escape(unit)}</text>')
    height = y + 16
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" '
        f'font-size="13" role="img" aria-label="{escape(label)}">\n'
        f'<rect width="{WIDTH}" height="{height}" rx="12" fill="#f6f8fa"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _bar(name: str, bar: Bar, y: int, scale: float, colour: str) -> Sequence[str]:
    middle, low, high = (round(LEFT + value * scale, 1) for value in bar)
    line = y + BAR / 2
    return (
        f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end" fill="{QUIET}" font-size="12">{escape(name)}</text>',
        f'<rect x="{LEFT}" y="{y}" width="{middle - LEFT:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
        f'<path d="M{low} {line}H{high}" stroke="{INK}" stroke-width="1.5"/>',
        f'<text x="{high + 8:.1f}" y="{y + 13}" fill="{INK}">{bar[0]:,.4g}</text>',
    )


def _colours(names: Sequence[str]) -> dict[str, str]:
    known: dict[str, str] = {}
    for name in dict.fromkeys(names):
        mine = name.startswith("ours")
        used = sum(other.startswith("ours") == mine for other in known)
        palette = OURS if mine else THEIRS
        known[name] = palette[used % len(palette)]
    return known
