"""How a stage tells its caller how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """A listener that is told what is being done and how much of it is done."""

    def __call__(self, what: str, done: float, total: float, note: str = "") -> None:
        """Take a report: `done` of `total` units of `what`; `done == total` ends that piece of work.

        Args:
            what: the piece of work, a few words; the same words for each report on it.
            done: units finished so far.
            total: all units of this piece.
            note: figures worth showing beside the bar, such as a loss.
        """


def silent(what: str, done: float, total: float, note: str = "") -> None:
    """Ignore every report: the default listener."""


def of_part(progress: Progress, part: str) -> Progress:
    """Return a listener that says of which part of a model each report is; `progress` itself where `part` is empty."""

    def heard(what: str, done: float, total: float, note: str = "") -> None:
        progress(f"{what}, {part}", done, total, note)

    return heard if part else progress
