"""What a model attends to in one sentence, as a picture."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_CELL: Final = 0.2  # inches
_MARGIN: Final = 1.2  # inches, for the tokens' names
_BETWEEN: Final = 0.3  # inches
_ACROSS: Final = 4
"""Heads side by side; further ones stand below."""
_DPI: Final = 100
_LONGEST: Final = 14
"""Characters of a token that are shown."""


def attention_picture(
    weights: npt.NDArray[np.float32], rows: Sequence[str], columns: Sequence[str], *, title: str
) -> npt.NDArray[np.uint8]:
    """Return a picture [height, width, 3] of the heads' weights, side by side.

    Args:
        weights: [H, T, S]; each row of a head sums to 1.
        rows: the T tokens that attend.
        columns: the S tokens that are attended to.
        title: what stands above.
    """
    # Not pyplot: it would look for a screen and keep what it drew.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heads = weights.shape[0]
    across, down = min(heads, _ACROSS), -(-heads // _ACROSS)
    width = across * (len(columns) * _CELL + _BETWEEN) + _MARGIN
    height = down * len(rows) * _CELL + 2 * _MARGIN
    figure = Figure(figsize=(max(width, 4.0), height), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat
    for head, axes in enumerate(grid):
        if head >= heads:
            axes.set_visible(False)
            continue
        axes.imshow(weights[head], cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        axes.set_title(f"head {head + 1}", fontsize=8)
        _name(axes, rows, columns)
    figure.suptitle(title, fontsize=10)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _name(axes: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), [_shown(name) for name in columns], rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), [_shown(name) for name in rows], fontsize=7)
    axes.tick_params(length=0)


def _shown(name: str) -> str:
    """Return a token's text as the picture's font can write it; other characters become their numbers."""
    known = _characters()
    text = "".join(char if ord(char) in known else f"[{ord(char):x}]" for char in name.replace(" ", "␣"))
    # A dollar sign would begin a formula.
    return text[:_LONGEST].replace("$", r"\$")


@cache
def _characters() -> frozenset[int]:
    """Return what the font that is used can write."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
