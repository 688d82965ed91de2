"""An encoder graph in ONNX Runtime, and what a decoder is given of the sources it has read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploykit.failing import in_one_line
from deploykit.spec import ATTENTION_MASK, INPUT_IDS, LAST_HIDDEN_STATE, EncoderSpec
from deploykit.validate.contract import open_graph


@dataclass(frozen=True, kw_only=True)
class Source:
    """Sources of some rows, read; the shorter ones padded on the right."""

    states: NDArray[np.float32]
    """The encoder's, [B, longest, W]."""
    mask: NDArray[np.int64]
    """1 where there is a token, [B, longest]."""


class Encoder:
    """An encoder that was found to have the contract's inputs and output."""

    def __init__(self, file: Path, spec: EncoderSpec) -> None:
        """Load `file`.

        Raises:
            ArtifactError: ONNX Runtime can't load it, or it isn't what `spec` says.
        """
        self._file = file
        self._session = open_graph(file, spec.inputs(), spec.outputs())

    def run(self, sources: Sequence[NDArray[np.int64]]) -> Source:
        """Return what the encoder makes of some sources, token ids [S] each, in one batch."""
        ids = np.zeros((len(sources), max(map(len, sources))), np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(sources):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        with in_one_line(self._file, "run"):
            (states,) = self._session.run([LAST_HIDDEN_STATE], {INPUT_IDS: ids, ATTENTION_MASK: mask})
        return Source(states=np.asarray(states), mask=mask)
