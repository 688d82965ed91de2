"""How well a model does on examples it isn't trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from deploykit.errors import TrainError
from deploykit.train import distributed
from deploykit.train.config import OptimConfig
from deploykit.train.metrics import Seen, total
from deploykit.train.objective import Objective
from deploykit.train.parts import Batch, Examples
from deploykit.train.precision import products
from deploykit.train.record import Record
from deploykit.train.step import on

SAMPLES: Final = 4
"""Texts that are shown."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a validation found."""

    loss: float
    """Mean over the labels."""
    metrics: Mapping[str, float]


class Validation:
    """A model and the examples it is measured on: always the same, the first ones of their file."""

    def __init__(
        self, model: nn.Module, objective: Objective, config: OptimConfig, examples: Examples, device: torch.device
    ) -> None:
        self._model = model
        self._objective = objective
        self._config = config
        self._examples = examples
        self._device = device

    @torch.no_grad()
    def scores(self) -> Scores:
        """Return the loss and the metrics, over all processes.

        Raises:
            TrainError: no label of the examples counts.
        """
        self._model.eval()
        place, generated = distributed.world(), 0
        parts = [Seen()]
        for batch in self._examples.in_order(self._config.eval_examples or self._objective.usual):
            mine, weight = distributed.share(batch, place)
            # Of the rows that are to be generated, this process has every `size`-th as well.
            wanted = range(min(max(self._config.eval_generate - generated, 0), batch.rows))[place.rank :: place.size]
            generated += batch.rows
            if weight:
                with products(self._config.compute, self._device):
                    parts.append(self._objective.look(self._model, on(mine, self._device), generate=len(wanted)))
        seen = total(distributed.gathered(parts))
        if not seen.labels:
            raise TrainError(
                "the validation data holds nothing to measure on; give more of it, or pass --val-split 0.05"
            )
        return Scores(loss=seen.loss / seen.labels, metrics=self._objective.metrics(seen))

    @torch.no_grad()
    def samples(self) -> list[str]:
        """Return what the model makes of the first examples, as Markdown."""
        self._model.eval()
        with products(self._config.compute, self._device):
            return self._objective.samples(self._model, on(self.first(), self._device), SAMPLES)

    def rank(self, record: Record) -> tuple[float, float]:
        """Return what the best line of a log has the least of."""
        highest = self._objective.highest
        return (-record.metrics[highest] if highest else 0.0, record.val_loss)

    def first(self) -> Batch:
        """Return the first examples."""
        return next(iter(self._examples.in_order(SAMPLES)))
