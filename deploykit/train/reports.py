"""Who is told of a training while it runs."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from deploykit.progress import Progress, silent
from deploykit.train.record import Record
from deploykit.train.state import Place
from deploykit.train.validation import Validation

_EVERY: Final = 0.25  # seconds


class Watcher(Protocol):
    """Who looks on from inside, between the steps."""

    def stepped(self, place: Place, loss: float, rate: float) -> None:
        """Take note of a step: where it led, its loss a label, its learning rate."""

    def validated(self, record: Record, validation: Validation) -> None:
        """Take note of a validation; `validation` can be asked for more."""


class Reports:
    """The listeners of one training."""

    def __init__(
        self,
        *,
        progress: Progress = silent,
        heard: Callable[[Record], None] | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self._progress = progress
        self._heard = heard
        self._watchers = watchers
        self._first = Place()
        self._first_done = 0.0
        self._told = 0.0
        self._note = ""

    def begin(self, place: Place, done: float) -> None:
        """Take note of where this run begins."""
        self._first, self._first_done = place, done

    def stepped(self, place: Place, loss: float, rate: float, done: float) -> None:
        """Tell of a step."""
        for watcher in self._watchers:
            watcher.stepped(place, loss, rate)
        if place.seconds - self._told > _EVERY and done < 1:
            self._told = place.seconds
            left = (place.seconds - self._first.seconds) / max(done - self._first_done, 1e-9) * (1 - done)
            self._note = self._figures(place, loss)
            self._progress("train", done, 1.0, f"{self._note}, {_clock(left)} left")

    def validated(self, record: Record, validation: Validation) -> None:
        """Tell of a validation."""
        for watcher in self._watchers:
            watcher.validated(record, validation)
        if self._heard:
            self._heard(record)

    def end(self, place: Place, loss: float) -> None:
        """Tell that the training is over."""
        self._progress("train", 1.0, 1.0, self._figures(place, loss))

    def _figures(self, place: Place, loss: float) -> str:
        spent = max(place.training_seconds - self._first.training_seconds, 1e-9)
        return f"loss {loss:.3f}, {(place.tokens - self._first.tokens) / spent:,.0f} tokens/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
