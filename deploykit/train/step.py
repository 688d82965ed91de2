"""One step: batches in, changed weights and a loss out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from deploykit.errors import TrainError
from deploykit.train import distributed
from deploykit.train.config import OptimConfig
from deploykit.train.objective import Objective
from deploykit.train.parts import Batch
from deploykit.train.precision import products

BETAS: Final = (0.9, 0.95)
"""The optimizer's averages: the second is shorter than torch's default, as in GPT-3 (arXiv 2005.14165, appendix B)."""


class Stepper:
    """A model with its optimizer."""

    def __init__(
        self, model: nn.Module, objective: Objective, config: OptimConfig, *, seed: int, device: torch.device
    ) -> None:
        self.rate = 0.0
        """Learning rate of the last step."""
        self._parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self._device = device
        self._model = model
        self._objective = objective
        self._config = config
        self._seed = seed
        self._place = distributed.world()
        self._scratch = torch.zeros(2, dtype=torch.float64, device=device)
        distributed.take_over([*model.parameters(), *model.buffers()])
        self.optimizer = _optimizer(list(self._parameters.values()), config)

    def advance(self, batches: Sequence[Batch], step: int, rate: float, seconds: float) -> tuple[float, float]:
        """Take a step; return the loss summed over its labels, and the seconds that rank 0 has counted.

        Args:
            batches: what is accumulated.
            step: the step's number, from 1.
            rate: the learning rate.
            seconds: spent so far by this process's clock: rank 0's is what all go by.

        Raises:
            TrainError: the loss or a gradient is no longer a number; the weights are as before the step.
        """
        # A step's noise depends on these three alone, so a training that goes on after a pause repeats itself.
        torch.manual_seed(
            int(np.random.SeedSequence([self._seed, step, self._place.rank]).generate_state(1, np.uint64)[0])
        )
        self._model.train()
        labels = self.labels(batches)
        loss = sum((self._backward(batch, labels) for batch in batches), torch.zeros((), device=self._device))
        total, seconds = self._agreed(float(loss), seconds)
        gradients = [one.grad for one in self._parameters.values() if one.grad is not None]
        distributed.add_up(gradients)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._config.max_grad_norm)
        self._check(total / labels, float(norm), step, rate)
        self.rate = rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, seconds

    def labels(self, batches: Sequence[Batch]) -> int:
        """Return how many labels of `batches` count; 1 where none does, as it is divided by."""
        return max(sum(self._objective.labels(batch) for batch in batches), 1)

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return what is trained, by name."""
        return {name: one.detach() for name, one in self._parameters.items()}

    def load(self, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any]) -> None:
        """Take weights and the optimizer's averages as they were saved."""
        with torch.no_grad():
            for name, one in self._parameters.items():
                one.copy_(weights[name])
        self.optimizer.load_state_dict(dict(optimizer))

    def _backward(self, batch: Batch, labels: int) -> torch.Tensor:
        mine, weight = distributed.share(batch, self._place)
        with products(self._config.compute, self._device):
            loss = self._objective.loss(self._model, on(mine, self._device)) * weight
        # Divided by the labels of all batches and processes: how they are split changes nothing.
        (loss / labels).backward()  # type: ignore[no-untyped-call] # torch's own gap
        return loss.detach()

    def _agreed(self, loss: float, seconds: float) -> tuple[float, float]:
        """Return the loss of all processes and the seconds of the first."""
        self._scratch[0] = loss
        self._scratch[1] = seconds if self._place.leads else 0.0
        distributed.add_up([self._scratch])
        total, agreed = self._scratch.tolist()
        return total, agreed

    def _check(self, loss: float, norm: float, step: int, rate: float) -> None:
        what, value = ("loss", loss) if not math.isfinite(loss) else ("gradient's length", norm)
        if not math.isfinite(value):
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainError(
                f"the {what} became {value} in step {step}, at a learning rate of {rate:.3g}; "
                f"lower --learning-rate (its peak is {self._config.learning_rate:g})"
            )


def on(batch: Batch, device: torch.device) -> Batch:
    """Return `batch` with its tensors on `device`."""
    if device.type == "cpu":
        return batch
    inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
    return Batch(inputs=inputs, labels=batch.labels.to(device), tokens=batch.tokens, places=batch.places)


def _optimizer(parameters: Sequence[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=0.0, betas=BETAS, fused=True)
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": config.weight_decay},
        # Scales of the norms and biases: pulling them to 0 would only fight what they are for.
        {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=BETAS, fused=True)
