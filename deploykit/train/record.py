"""What a training came to, line by line and as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Record:
    """A line of the training log: one validation."""

    step: int
    epoch: float
    """Times the training data was gone through."""
    seconds: float
    """Since the training began, pauses between runs left out."""
    tokens: int
    learning_rate: float
    train_loss: float
    """Mean over the labels since the line before, in nats a label (squared error in regression), smoothing included."""
    val_loss: float
    """Mean over the labels of the validation examples, without smoothing."""
    metrics: Mapping[str, float]
    """`perplexity`, `token_accuracy`, for pairs `bleu`, `chrf`, `exact_match`; `accuracy`, `f1`; or `mse`."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A training that is over."""

    log: tuple[Record, ...]
    best: Record
    """The line whose weights lie in `best/`."""
    losses: tuple[float, ...]
    """Of each step."""
    steps: int
    epochs: float
    seconds: float
    """Since the training began, validations included."""
    training_seconds: float
    """In the steps alone."""
    tokens: int
    """Trained on, repetitions counted, padding not."""
    padding: float
    """Part of the positions computed in training that held none."""
    stopped: str
    """What ended it: `epochs`, `max_steps`, `seconds` or `patience`."""
