"""What a training came to."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished training and its figures."""

    path: Path
    parameters: int
    """Weights of the model; tables that are one are counted once."""
    trained_parameters: int
    """Weights that were trained: fewer with LoRA."""
    steps: int
    best_step: int
    """The step whose weights the checkpoint holds."""
    epochs: float
    """Times the training data was gone through."""
    stopped: str
    """What ended it: `epochs`, `max_steps`, `seconds` or `patience`."""
    seconds: float
    """Time in the training's steps, without tokenizer and validation."""
    tokens: int
    """Tokens trained on, repetitions counted, padding not."""
    tokens_per_second: float
    padding: float
    """Part of the positions computed that held no token."""
    train_loss: float
    """Mean of the last 20 steps, in nats a token (or a label; squared error in regression)."""
    val_loss: float
    """Of the model that was kept, on the validation examples."""
    metrics: Mapping[str, float]
    """Of the model that was kept: perplexity and what else belongs to its task."""
    notes: tuple[str, ...]
    """What was left out of the data, a line each."""

    def figures(self) -> dict[str, Any]:
        """Return all but the path and the notes, as plain values."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in ("path", "notes")}
