"""The loss curve of a training, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from deploykit.train.record import Fit

_POINTS: Final = 400
"""Points that the steps' losses are drawn as at most, each the mean of its neighbours: single steps make a carpet."""
_SIZE: Final = (7.2, 4.0)  # inches
_DPI: Final = 120


def loss_curve(fit: Fit, file: Path) -> None:
    """Draw the training loss of every step and the validation losses, and write the picture to `file` as PNG."""
    # Not pyplot: it would look for a screen and keep what it drew.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, losses = smoothed(fit.losses)
    axes.plot(steps, losses, color="#9db4c8", linewidth=1.5, label="training")
    looks = [record.step for record in fit.log]
    axes.plot(
        looks, [record.val_loss for record in fit.log], color="#b3372f", marker="o", markersize=4, label="validation"
    )
    axes.plot(
        fit.best.step, fit.best.val_loss, marker="o", markersize=10, fillstyle="none", color="#b3372f", linestyle=""
    )
    axes.annotate(
        f"{fit.best.val_loss:.3f}", (fit.best.step, fit.best.val_loss), (0, 9), textcoords="offset points", ha="center"
    )
    axes.set_xlabel("step")
    axes.set_ylabel("squared error" if "mse" in fit.best.metrics else "loss (nats)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=_DPI, format="png", metadata={"Software": "deploykit"})


def smoothed(losses: Sequence[float], points: int = _POINTS) -> tuple[list[float], list[float]]:
    """Return steps (from 1) and losses of at most `points` points, each the mean of the steps that it stands for."""
    parts = np.array_split(np.array(losses), min(points, len(losses)))
    ends = np.cumsum([len(part) for part in parts])
    middles = [float(end - (len(part) - 1) / 2) for end, part in zip(ends, parts, strict=True)]
    return middles, [float(part.mean()) for part in parts]
