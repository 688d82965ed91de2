"""Quality by part of the text: by what the text is, by script, and by how much context stands before a token."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.config import ValidateConfig
from deploykit.validate.quality import Measured, Quality, Scores, Text, Window, summary

FEWEST: Final = 64
"""Tokens that a slice must have to be judged: fewer say more about themselves than about the model."""
DOUBT: Final = 2.0
"""Standard errors by which a slice's growth of perplexity must pass the limit: few tokens vary by chance."""
DEPTHS: Final = (0, 16, 64, 256)
"""First context length of each slice by position, in tokens."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A part of the text, and what was measured on it."""

    by: str
    """`text`, `script` or `position`; the slices of one kind make up the whole."""
    name: str
    quality: Quality
    judged: bool
    """Whether limits count for it: it has enough tokens, and the fp32 model knows text of its kind."""
    over: bool
    """Whether it is past a limit."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a report holds it."""
        return {
            "by": self.by,
            "name": self.name,
            **self.quality.to_json(),
            "judged": self.judged,
            "over": self.over,
        }


def slices(measured: Measured, scores: Scores, text: Text, vocab_size: int, config: ValidateConfig) -> list[Slice]:
    """Return the figures of every slice, in the order of the text."""
    found = []
    for by, label in _KINDS.items():
        labels = np.concatenate([label(text, window) for window in measured.windows])
        for name in _in_order(labels, by):
            quality = summary(scores, labels == name)
            judged = quality.tokens >= FEWEST and text.known(quality, vocab_size)
            over = judged and _is_over(quality, config)
            found.append(Slice(by=by, name=name, quality=quality, judged=judged, over=over))
    return found


def _is_over(quality: Quality, config: ValidateConfig) -> bool:
    sure_loss = quality.perplexity_loss - DOUBT * quality.uncertainty
    # Written so that NaN is over.
    return not (quality.kl <= config.max_kl and sure_loss <= config.max_perplexity_loss)


def _in_order(labels: NDArray[np.str_], by: str) -> list[str]:
    present = dict.fromkeys(labels.tolist())
    return [name for name in depth_names() if name in present] if by == "position" else list(present)


def depth_names() -> list[str]:
    """Return the names of the slices by position: the tokens of context that stand before a token."""
    return [
        f"{first}+" if end == math.inf else f"{first}-{end - 1}"
        for first, end in zip(DEPTHS, (*DEPTHS[1:], math.inf), strict=True)
    ]


def _by_text(text: Text, window: Window) -> NDArray[np.str_]:
    return np.full(len(window.ids) - window.first, text.samples[window.sample].label)


def _by_script(text: Text, window: Window) -> NDArray[np.str_]:
    count = len(window.ids) - window.first
    known = text.samples[window.sample].scripts[window.start : window.start + count]
    return np.array(known) if known else np.full(count, "unknown")


def _by_position(_: Text, window: Window) -> NDArray[np.str_]:
    depth = np.arange(window.first, len(window.ids))
    return np.asarray(np.array(depth_names())[np.searchsorted(DEPTHS, depth, side="right") - 1], np.str_)


_KINDS: Final[dict[str, Callable[[Text, Window], NDArray[np.str_]]]] = {
    "text": _by_text,
    "script": _by_script,
    "position": _by_position,
}
