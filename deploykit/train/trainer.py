"""A model in training, from its parts."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from deploykit.errors import OutputError
from deploykit.progress import Progress, silent
from deploykit.train.config import TrainConfig
from deploykit.train.distributed import world
from deploykit.train.keeping import Keeper
from deploykit.train.loop import Loop
from deploykit.train.objective import Objective
from deploykit.train.parts import Examples
from deploykit.train.record import Fit, Record
from deploykit.train.reports import Reports, Watcher
from deploykit.train.step import Stepper
from deploykit.train.validation import Validation
from deploykit.train.watch.board import Board
from deploykit.train.watch.trace import Trace


class Trainer:
    """A model to be trained."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        config: TrainConfig,
        *,
        folder: Path,
        write: Callable[[Path], None],
        tensorboard: Path | None = None,
        trace: Path | None = None,
        heard: Callable[[Record], None] | None = None,
        progress: Progress = silent,
    ) -> None:
        """Make ready to train.

        Args:
            model: called by the names that batches have; only what requires a gradient is trained.
            objective: what is minimized and measured.
            config: must leave open neither the learning rate nor all three ends.
            folder: where `best/` and `last/` are kept while it runs.
            write: fills an empty folder with the model as it stands, `config.json` among it.
            tensorboard: where to log scalars, samples and the attention map.
            trace: where to write a profile of some steps.
            heard: told of each line of the log; what it raises ends the training.
            progress: told how far it is, the loss and the speed.
        """
        self._model = model
        self._objective = objective
        self._config = config
        self._folder = folder
        self._write = write
        self._tensorboard = tensorboard
        self._trace = trace
        self._heard = heard
        self._progress = progress

    def fit(self, train: Examples, val: Examples, *, data: str = "", resume: bool = False) -> Fit:
        """Train until an end that the configuration sets is reached; return what it came to.

        The weights are those of the last step then; the best ones lie in `best/`.

        Args:
            train: what is learned from.
            val: what is measured on.
            data: fingerprint of both; a training is gone on with on the same data only.
            resume: whether to go on from `last/`, as if the training had never stopped.

        Raises:
            TrainError: the loss is no longer a number, or the saved state is damaged or of another model or data.
            OutputError: a checkpoint can't be written.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config, model = self._config, self._model.to(device)
        try:
            with torch.random.fork_rng(devices=[]), ExitStack() as stack:
                return Loop(
                    stepper=Stepper(model, self._objective, config.optim, seed=config.seed, device=device),
                    validation=Validation(model, self._objective, config.optim, val, device),
                    keeper=Keeper(self._folder, self._write if world().leads else None),
                    reports=self._reports(stack) if world().leads else Reports(),
                    config=config.optim,
                    train=train,
                    sizes={"training examples": len(train), "validation examples": len(val)},
                    data=data,
                ).run(resume=resume)
        finally:
            model.to("cpu")

    def _reports(self, stack: ExitStack) -> Reports:
        for folder in (self._tensorboard, self._trace):
            if folder:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise OutputError(f"{folder}: can't be written: {error.strerror or error}") from error
        watchers: list[Watcher] = []
        if self._tensorboard:
            watchers.append(stack.enter_context(Board(self._tensorboard)))
        if self._trace:
            watchers.append(stack.enter_context(Trace(self._trace)))
        return Reports(progress=self._progress, heard=self._heard, watchers=watchers)
