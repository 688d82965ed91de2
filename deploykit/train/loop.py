"""The loop: a step for each few batches, a validation now and then, until an end is reached."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from deploykit.errors import TrainError
from deploykit.train.config import OptimConfig
from deploykit.train.keeping import Keeper
from deploykit.train.parts import Batch, Examples
from deploykit.train.record import Fit, Record
from deploykit.train.reports import Reports
from deploykit.train.schedule import Plan, learning_rate
from deploykit.train.state import Place, State, check_fits, read_state
from deploykit.train.step import Stepper
from deploykit.train.validation import Validation


class Loop:
    """A training that runs."""

    def __init__(
        self,
        *,
        stepper: Stepper,
        validation: Validation,
        keeper: Keeper,
        reports: Reports,
        config: OptimConfig,
        train: Examples,
        sizes: Mapping[str, int],
        data: str,
    ) -> None:
        self._stepper = stepper
        self._validation = validation
        self._keeper = keeper
        self._reports = reports
        self._config = config
        self._train = train
        self._per_epoch = max(-(-train.steps() // config.accumulate), 1)
        self._sizes = {**sizes, "steps an epoch": self._per_epoch}
        self._data = data
        self._plan = Plan(config, steps_an_epoch=self._per_epoch)
        self._place = Place()
        self._log: list[Record] = []
        self._losses: list[float] = []
        self._began = 0.0

    def run(self, *, resume: bool) -> Fit:
        """Train to an end; return what it came to."""
        if resume:
            self._go_on()
        self._began = time.monotonic() - self._place.seconds
        self._reports.begin(self._place, self._done)
        stopped = self._over()
        while not stopped:
            stopped = self._epoch()
        place = self._place
        self._reports.end(place, self._log[-1].train_loss if self._log else 0.0)
        return Fit(
            log=tuple(self._log),
            best=self._best(),
            losses=tuple(self._losses),
            steps=place.step,
            epochs=self._epochs,
            seconds=place.seconds,
            training_seconds=place.training_seconds,
            tokens=place.tokens,
            padding=1 - place.tokens / max(place.places, 1),
            stopped=stopped,
        )

    def _epoch(self) -> str | None:
        """Train to the end of the running epoch; return what ended the training, if something did."""
        place, began = self._place, time.monotonic()
        groups = _groups(self._train.epoch(place.epoch, skip=place.position), self._config.accumulate)
        group, following = next(groups, None), next(groups, None)
        if not group:
            raise TrainError("the training data gives no batch; give more of it, or lower --batch-size")
        while group:
            self._step(group, began, epoch_over=not following)
            if stopped := self._look(epoch_over=not following):
                return stopped
            # Reading a batch is part of the time that a step takes.
            began = time.monotonic()
            group, following = following, next(groups, None)
        return None

    def _step(self, group: list[Batch], began: float, *, epoch_over: bool) -> None:
        place, rate = self._place, learning_rate(self._done, self._config)
        loss, seconds = self._stepper.advance(group, place.step + 1, rate, time.monotonic() - self._began)
        labels = self._stepper.labels(group)
        self._losses.append(loss / labels)
        self._place = Place(
            step=place.step + 1,
            epoch=place.epoch + epoch_over,
            position=0 if epoch_over else place.position + len(group),
            seconds=seconds,
            training_seconds=place.training_seconds + time.monotonic() - began,
            tokens=place.tokens + sum(batch.tokens for batch in group),
            places=place.places + sum(batch.places for batch in group),
            loss=place.loss + loss,
            labels=place.labels + labels,
        )
        self._reports.stepped(self._place, self._losses[-1], rate, self._done)

    def _look(self, *, epoch_over: bool) -> str | None:
        """Validate and save where it is time to; return what ended the training, if something did."""
        stopped = self._over()
        if stopped or self._plan.validates(self._place.step, self._done, looks=len(self._log), epoch_over=epoch_over):
            self._validate()
            stopped = stopped or self._over()
        elif self._keeper.due():
            self._keeper.last(self._state())
        return stopped

    def _validate(self) -> None:
        scores, place = self._validation.scores(), self._place
        if not math.isfinite(scores.loss):
            raise TrainError(
                f"the validation loss became {scores.loss} after step {place.step}; "
                f"lower --learning-rate (its peak is {self._config.learning_rate:g})"
            )
        record = Record(
            step=place.step,
            epoch=self._epochs,
            seconds=place.seconds,
            tokens=place.tokens,
            learning_rate=self._stepper.rate,
            train_loss=place.loss / max(place.labels, 1),
            val_loss=scores.loss,
            metrics=scores.metrics,
        )
        self._log.append(record)
        self._place = replace(place, loss=0.0, labels=0)
        if self._best() is record:
            self._keeper.best()
        self._keeper.last(self._state())
        self._reports.validated(record, self._validation)

    def _over(self) -> str | None:
        """Return which end is reached, if one is."""
        place = self._place
        stopped = self._plan.ended(place.step, place.epoch, place.seconds)
        if not stopped and self._config.patience and self._log:
            since = len(self._log) - 1 - self._log.index(self._best())
            stopped = "patience" if since >= self._config.patience else None
        return stopped

    def _best(self) -> Record:
        """Return the best line of the log; of equal ones the first."""
        return min(self._log, key=self._validation.rank)

    @property
    def _done(self) -> float:
        return self._plan.done(self._place.step, self._place.seconds)

    @property
    def _epochs(self) -> float:
        through = self._place.position / self._config.accumulate / self._per_epoch
        return round(self._place.epoch + through, 4)

    def _state(self) -> State:
        return State(
            place=self._place,
            log=tuple(self._log),
            losses=tuple(self._losses),
            weights=self._stepper.weights(),
            optimizer=self._stepper.optimizer.state_dict(),
            sizes=self._sizes,
            data=self._data,
        )

    def _go_on(self) -> None:
        state = read_state(self._keeper.state)
        check_fits(state, self._stepper.weights(), self._sizes, self._data, self._keeper.state)
        self._stepper.load(state.weights, state.optimizer)
        self._place, self._log, self._losses = state.place, list(state.log), list(state.losses)


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield lists of `size` batches, the last one perhaps shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group
