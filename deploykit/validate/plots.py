"""Plots as SVG elements without a colour of their own: classes `s0`, `s1`, … and the page's style colour them.

Drawn here and not by a plotting library, since a page that follows the reader's light or dark theme needs elements
that its style can reach, and since loading one and drawing takes longer than all the rest of the report.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from xml.etree import ElementTree as ET

WIDTH: Final = 640
"""Of the drawing's own units; a page scales it."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 10, 40
_ROW: Final = 26
_COLOURS: Final = 6
Format = Callable[[float], str]


def lines(
    series: Mapping[str, Sequence[float]], ticks: Sequence[str], *, across: str, up: str, form: Format, label: str
) -> str:
    """Return a plot of values along an axis, a line for each of the series; those named alike share a colour.

    Args:
        series: values by name. A name with a comma is drawn dashed, in the colour of what stands before the comma.
        ticks: name of each place along the axis.
        across: what the axis is.
        up: what the values are.
        form: writes a value.
        label: says what the plot shows, for those who don't see it.
    """
    height = 260
    svg = _svg(height, label)
    top = ceiling(max((value for values in series.values() for value in values), default=0))
    wide, high = WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    for value in (0, top / 4, top / 2, 3 * top / 4, top):
        y = _TOP + high * (1 - value / top)
        _line(svg, _LEFT, y, WIDTH - _RIGHT, y, "grid")
        _text(svg, _LEFT - 6, y + 4, form(value), "end")
    step = wide / max(1, len(ticks))
    every = math.ceil(len(ticks) / 16)
    for number, tick in enumerate(ticks):
        if number % every == 0:
            _text(svg, _LEFT + step * (number + 0.5), height - _BOTTOM + 16, tick, "middle")
    _text(svg, _LEFT + wide / 2, height - 6, across, "middle", "axis")
    colours = _colours(series)
    for name, values in series.items():
        shape = f"{colours[name]}{' dashed' if ',' in name else ''}"
        points = [
            (_LEFT + step * (number + 0.5), _TOP + high * (1 - min(value, top) / top))
            for number, value in enumerate(values)
        ]
        ET.SubElement(svg, "polyline", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points), "class": shape})
        for (x, y), value, tick in zip(points, values, ticks, strict=True):
            _mark(svg, x, y, colours[name], f"{name}, {across} {tick}: {up} {form(value)}")
    return _done(svg)


def dots(
    rows: Mapping[str, Mapping[str, float]], *, low: float, high: float, form: Format, label: str, limit: float | None
) -> str:
    """Return a plot with a row for each name and in it a dot for each of the series.

    Args:
        rows: values by row and series.
        low: where the axis begins.
        high: where it ends.
        form: writes a value.
        label: says what the plot shows, for those who don't see it.
        limit: a value to draw a line at.
    """
    height = _TOP + _ROW * len(rows) + 28
    svg = _svg(height, label)
    left = min(270, 24 + 8.5 * max(map(len, rows), default=0))
    wide = WIDTH - left - 28

    def place(value: float) -> float:
        return left + wide * (min(max(value, low), high) - low) / (high - low)

    for number in range(5):
        value = low + (high - low) * number / 4
        _line(svg, place(value), _TOP, place(value), height - 28, "grid")
        _text(svg, place(value), height - 10, form(value), "middle")
    colours = _colours(dict.fromkeys(name for found in rows.values() for name in found))
    for number, (row, found) in enumerate(rows.items()):
        y = _TOP + _ROW * (number + 0.5)
        _text(svg, left - 10, y + 4, row if len(row) <= 30 else f"{row[:29]}…", "end", "name")
        _line(svg, left, y, WIDTH - 28, y, "grid")
        for name, value in found.items():
            _mark(svg, place(value), y, colours[name], f"{row}, {name}: {form(value)}", radius=5)
    if limit is not None and low <= limit <= high:
        _line(svg, place(limit), _TOP, place(limit), height - 28, "limit")
    return _done(svg)


def legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each name and its class."""
    return list(_colours(dict.fromkeys(names)).items())


def _colours(names: Mapping[str, object]) -> dict[str, str]:
    """Return a class for each name, the same for those alike up to a comma."""
    groups = list(dict.fromkeys(name.partition(",")[0] for name in names))
    return {name: f"s{groups.index(name.partition(',')[0]) % _COLOURS}" for name in names}


def ceiling(value: float) -> float:
    """Return the next of 1, 2, 4 and 8 times a power of ten: quarters of it are short numbers."""
    if not 0 < value < math.inf:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 4, 8, 10) if value <= power * factor * (1 + 1e-9))


def _svg(height: int, label: str) -> ET.Element:
    return ET.Element("svg", {"viewBox": f"0 0 {WIDTH} {height}", "role": "img", "aria-label": label})


def _line(svg: ET.Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    ET.SubElement(svg, "line", {**ends, "class": kind})


def _text(svg: ET.Element, x: float, y: float, text: str, anchor: str, kind: str = "tick") -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
    ET.SubElement(svg, "text", place).text = text


def _mark(svg: ET.Element, x: float, y: float, colour: str, title: str, *, radius: float = 3) -> None:
    place = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:g}", "class": colour}
    ET.SubElement(ET.SubElement(svg, "circle", place), "title").text = title


def _done(svg: ET.Element) -> str:
    return ET.tostring(svg, encoding="unicode")
