"""The loop: batches in, a trained model and its log out."""

import math
from collections import deque
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import numpy as np
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from deploykit.config import TrainConfig
from deploykit.errors import TrainError
from deploykit.progress import Progress, silent
from deploykit.train.data import Batch, Ids, in_order, shuffled
from deploykit.train.schedule import Budget, learning_rate
from deploykit.train.tokenizer import BOS

MAX_GRADIENT_NORM: Final = 1.0
BETAS: Final = (0.9, 0.95)
"""AdamW's averages: the second is shorter than torch's default, as in GPT-3 (arXiv 2005.14165, appendix B)."""
CHECKS: Final = 5
"""Times the validation loss is taken during training."""
CHECK_WINDOWS: Final = 16
"""Windows of val.txt for each of these."""
FINAL_WINDOWS: Final = 256
"""Windows of val.txt for the validation loss at the end."""
_SMOOTH: Final = 20  # steps that the training loss is averaged over
_REPORT_EVERY: Final = 0.25  # seconds


@dataclass(frozen=True, kw_only=True)
class Record:
    """A line of the training log."""

    step: int
    seconds: float
    tokens: int
    learning_rate: float
    train_loss: float
    """Mean of the last 20 steps, in nats a token."""
    val_loss: float
    """In nats a token; on a part of val.txt, but for the last line."""


class Trainer:
    """A model in training."""

    def __init__(self, model: LlamaForCausalLM, config: TrainConfig) -> None:
        self.model = model
        self.step = 0
        self._config = config
        self._budget = Budget(config)
        self._losses: deque[float] = deque(maxlen=_SMOOTH)
        self._rate = 0.0
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
                # Scales of the norms: pulling them to 0 would only fight what they are for.
                {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=BETAS,
            fused=True,
        )

    @property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        return self.step * self._config.batch_size * self._config.sequence_length

    def fit(self, train: Ids, val: Ids, *, progress: Progress = silent) -> list[Record]:
        """Train on `train` until the configured steps or seconds are used; return the log, oldest line first.

        Args:
            train: token ids of the training text [N].
            val: token ids of the validation text [N].
            progress: told the loss and the speed.

        Raises:
            TrainError: the loss is no longer a number.
        """
        config, log, reported = self._config, list[Record](), 0.0
        order = np.random.default_rng(config.seed)
        batches = shuffled(train, bos=BOS, rows=config.batch_size, length=config.sequence_length, generator=order)
        self._budget = budget = Budget(config)
        while budget.used(self.step) < budget.total:
            self._advance(next(batches), budget.used(self.step) / budget.total)
            if budget.used(self.step) >= budget.total * (len(log) + 1) / CHECKS and len(log) + 1 < CHECKS:
                log.append(self._record(self.loss(val, windows=CHECK_WINDOWS)))
            if budget.seconds() - reported > _REPORT_EVERY and budget.used(self.step) < budget.total:
                reported = budget.seconds()
                progress("train", budget.used(self.step), budget.total, self._figures())
        progress("train", budget.total, budget.total, self._figures())
        last = self._record(math.nan)
        return [*log, replace(last, val_loss=self.loss(val, windows=FINAL_WINDOWS))]

    @torch.no_grad()
    def loss(self, ids: Ids, *, windows: int) -> float:
        """Return the mean loss in nats a token over the first `windows` windows of `ids`."""
        config, total, count = self._config, 0.0, 0
        self.model.eval()
        some = ids[: windows * config.sequence_length]
        for batch in in_order(some, bos=BOS, rows=config.batch_size, length=config.sequence_length):
            total += float(self._loss(batch)) * batch.labels.numel()
            count += batch.labels.numel()
        self.model.train()
        return total / count

    def _advance(self, batch: Batch, done: float) -> None:
        self._rate = learning_rate(done, self._config.learning_rate)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate
        loss = self._loss(batch)
        self._losses.append(float(loss.detach()))
        self.step += 1
        if not math.isfinite(self._losses[-1]):
            raise TrainError(
                f"the loss became {self._losses[-1]} in step {self.step}, at a learning rate of {self._rate:.3g}; "
                f"lower --learning-rate (its peak is {self._config.learning_rate:g})"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch's own gap
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()

    def _loss(self, batch: Batch) -> torch.Tensor:
        logits = self.model(input_ids=batch.input_ids, use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())

    def _record(self, val_loss: float) -> Record:
        return Record(
            step=self.step,
            seconds=self._budget.seconds(),
            tokens=self.tokens,
            learning_rate=self._rate,
            train_loss=fmean(self._losses),
            val_loss=val_loss,
        )

    def _figures(self) -> str:
        return f"loss {fmean(self._losses):.3f}, {self.tokens / self._budget.seconds():,.0f} tokens/s"
