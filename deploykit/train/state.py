"""Where a training is: enough to go on as if it had never stopped.

Everything left to chance in a step is drawn from the seed, the step and the process, and the order of the data from the
seed and the epoch: so no generator's state is kept.
"""

import dataclasses
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from deploykit.errors import OutputError, TrainError
from deploykit.train.record import Record

STATE: Final = "state.pt"
"""The file in the folder `last`."""
_FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """How far a training is."""

    step: int = 0
    epoch: int = 0
    """Epochs finished."""
    position: int = 0
    """Batches of the running epoch that are behind."""
    seconds: float = 0.0
    training_seconds: float = 0.0
    tokens: int = 0
    places: int = 0
    """Positions computed, padding included."""
    loss: float = 0.0
    """Sum over the labels since the last line of the log."""
    labels: int = 0
    """How many these were."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A training between two steps."""

    place: Place
    log: tuple[Record, ...]
    losses: tuple[float, ...]
    weights: Mapping[str, torch.Tensor]
    """Of the parameters that are trained, by name."""
    optimizer: Mapping[str, Any]
    sizes: Mapping[str, int]
    """Of the data it ran on."""
    data: str
    """That data's fingerprint."""


def write_state(file: Path, state: State) -> None:
    """Write a state.

    Raises:
        OutputError: the disk is full.
    """
    plain = {
        "format": _FORMAT,
        "place": dataclasses.asdict(state.place),
        "log": [{**dataclasses.asdict(record), "metrics": dict(record.metrics)} for record in state.log],
        "losses": torch.tensor(state.losses, dtype=torch.float64),
        "weights": dict(state.weights),
        "optimizer": dict(state.optimizer),
        "sizes": dict(state.sizes),
        "data": state.data,
    }
    try:
        with file.open("wb") as stream:
            torch.save(plain, stream)
    except (OSError, RuntimeError) as error:
        # torch's writer hides the system's error behind one of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise OutputError(f"{file}: can't be written: {cause.strerror}; make room") from error
        raise


def read_state(file: Path) -> State:
    """Return the state in `file`.

    Raises:
        TrainError: there is none, or it was cut short or isn't ours.
    """
    if not file.is_file():
        raise TrainError(f"{file}: no such file, so there is nothing to resume; leave out --resume")
    try:
        # Nothing but tensors and plain values is read: a state can't run code.
        plain = torch.load(file, map_location="cpu", weights_only=True)
        return State(
            place=Place(**plain["place"]),
            log=tuple(Record(**record) for record in plain["log"]),
            losses=tuple(plain["losses"].tolist()),
            weights=plain["weights"],
            optimizer=plain["optimizer"],
            sizes=plain["sizes"],
            data=plain["data"],
        )
    except Exception as error:
        size = file.stat().st_size
        raise TrainError(
            f"{file}: {size:,} bytes that are no whole training state ({type(error).__name__}), cut short perhaps; "
            "the best model beside it is not touched: train on from that with --from, or begin anew"
        ) from error


def check_fits(
    state: State, weights: Mapping[str, torch.Tensor], sizes: Mapping[str, int], data: str, file: Path
) -> None:
    """Check that a state is of this model and this data.

    Raises:
        TrainError: it isn't; the first difference is named.
    """
    remedy = "resume with the options and the data it was begun with, or begin anew without --resume"
    for name in {**state.weights, **weights}:
        saved, here = (list(kind[name].shape) if name in kind else None for kind in (state.weights, weights))
        if saved != here:
            raise TrainError(
                f"{file}: {name} is {saved or 'not there'}, in the model to train {here or 'none'}; {remedy}"
            )
    for name, size in sizes.items():
        if state.sizes.get(name) != size:
            raise TrainError(f"{file}: begun with {state.sizes.get(name)} {name}, now there are {size}; {remedy}")
    if state.data != data:
        raise TrainError(f"{file}: the data is no longer what the training began with; {remedy}")
