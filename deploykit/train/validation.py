"""How well a model does on examples it isn't trained on."""

from collections.abc import Callable, Mapping
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
from deploykit.transformer.maps import attention_maps

SAMPLES: Final = 4
"""Texts that are shown."""
SHOWN: Final = 32
"""Tokens whose attention is shown: more can't be read."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a validation found."""

    loss: float
    """Mean over the labels."""
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What the tokens of one example look at."""

    kind: str
    """`encoder`, `decoder` or `cross`."""
    weights: torch.Tensor
    """[H, T, S]."""
    rows: list[str]
    """The T tokens that look."""
    columns: list[str]
    """The S tokens that are looked at."""


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
        parts = self._seen(self._objective.look, self._config.eval_examples or self._objective.usual)
        if self._config.eval_generate:
            # By themselves: batches are of like lengths, so some of those above would be no fair sample.
            parts += self._seen(self._objective.answer, self._config.eval_generate)
        seen = total(distributed.gathered(parts))
        if not seen.labels:
            raise TrainError(
                "the validation data holds nothing to measure on; give more of it, or pass --val-split 0.05"
            )
        return Scores(loss=seen.loss / seen.labels, metrics=self._objective.metrics(seen))

    def _seen(self, look: Callable[[nn.Module, Batch], Seen], examples: int) -> list[Seen]:
        """Return what this process sees in its share of the first examples."""
        shares = (distributed.share(batch, distributed.world()) for batch in self._examples.in_order(examples))
        with products(self._config.compute, self._device):
            return [look(self._model, on(mine, self._device)) for mine, weight in shares if weight]

    @torch.no_grad()
    def samples(self) -> list[str]:
        """Return what the model makes of the first examples, as Markdown."""
        self._model.eval()
        with products(self._config.compute, self._device):
            return self._objective.samples(self._model, on(self._first(), self._device), SAMPLES)

    def rank(self, record: Record) -> tuple[float, float]:
        """Return what the best line of a log has the least of."""
        highest = self._objective.highest
        return (-record.metrics[highest] if highest else 0.0, record.val_loss)

    def attention(self) -> list[Attention]:
        """Return what each kind of attention in the last layer looks at in the first example."""
        batch = self._first()
        # What isn't shown needn't be computed.
        inputs = {name: tensor[:1, :SHOWN].to(self._device) for name, tensor in batch.inputs.items()}
        maps = attention_maps(self._model, inputs)
        source = self._names(inputs, "input_ids", "attention_mask")
        target = (
            self._names(inputs, "decoder_input_ids", "decoder_attention_mask") if maps.cross is not None else source
        )
        kinds = (("encoder", maps.encoder, source, source), ("decoder", maps.decoder, target, target))
        return [
            Attention(kind=kind, weights=layers[-1, :, : len(rows), : len(columns)], rows=rows, columns=columns)
            for kind, layers, rows, columns in (*kinds, ("cross", maps.cross, target, source))
            if layers is not None
        ]

    def _names(self, inputs: Mapping[str, torch.Tensor], ids: str, mask: str) -> list[str]:
        row = inputs[ids][0]
        return self._objective.tokens(row[: int(inputs[mask].sum())] if mask in inputs else row)

    def _first(self) -> Batch:
        return next(iter(self._examples.in_order(SAMPLES)))
