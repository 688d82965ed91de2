"""A search for the options that a model learns best with: many trainings, and the best one's model."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from deploykit.draft import Draft, check_target
from deploykit.errors import ConfigError, OutputError, TrainError
from deploykit.progress import Progress, silent
from deploykit.train.checkpoint import TRAINING
from deploykit.train.config import TrainConfig
from deploykit.train.record import Record
from deploykit.train.result import TrainResult
from deploykit.train.run import Job, run, threads
from deploykit.train.space import Sweep
from deploykit.train.trials import TABLE, TRIALS, Trial, table, to_json

_STUDY: Final = "sweep"
_JOURNAL: Final = "sweep.log"
_BEST: Final = "best"
"""What the folders of kept models are called, before the number of their trial."""
_OVER: Final = (TrialState.COMPLETE, TrialState.PRUNED)
_PRUNE_FROM: Final = 4
"""Trials that run to their end before others are held against them."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """A search that is over."""

    best: TrainResult
    trials: tuple[Trial, ...]
    """All of them, in the order they ran."""

    def table(self) -> str:
        """Return the trials as a table, the best first."""
        return table(self.trials)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the trials as plain values."""
        return to_json(self.trials)


def sweep(
    data: Path,
    out: Path,
    config: TrainConfig,
    *,
    space: Mapping[str, Any],
    base: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> SweepResult:
    """Train with many choices of options, write the best model to `out`, and return how all of them did.

    Choices are optuna's (TPE), which learns from the trials before; a trial that is behind the median of the others at
    the same validation is ended early. `out`.sweep holds the best model so far while it runs.

    Args:
        data: the folder of text, as for `train`.
        out: the checkpoint's folder; it also holds the table, as sweep.md and sweep.json.
        config: all options that aren't varied.
        space: what a config file's section `sweep` says.
        base: a checkpoint to fine-tune.
        resume: whether to go on with a search that was interrupted.
        overwrite: whether a checkpoint of ours at `out`, and an unfinished search, may be replaced.
        progress: told of each trial.

    Raises:
        ConfigError: the space names no option, or a value that it can't have.
        TrainError: every trial failed, or there is nothing to resume.
    """
    wanted = Sweep.from_json(space, config)
    target = out.parent.resolve() / out.name
    folder = _begin(target, resume=resume, overwrite=overwrite)
    job = Job(data=data, target=folder / "trial", config=config, base=base, overwrite=True, cache=folder / "tokens")
    with threads(config.threads), torch.random.fork_rng(devices=[]):
        search = _Search(job, wanted, folder, progress)
        try:
            trials = search.run()
        except (KeyboardInterrupt, SystemExit, OutputError) as error:
            # In place of what the trial said of itself.
            error.__notes__ = [f"{folder} keeps the trials so far; --resume goes on from there"]
            raise
    best = _publish(folder, target, trials, overwrite=overwrite)
    shutil.rmtree(folder, ignore_errors=True)
    return SweepResult(best=replace(best, path=out), trials=trials)


class _Search:
    """The trials of a search, one after the other."""

    def __init__(self, job: Job, wanted: Sweep, folder: Path, progress: Progress) -> None:
        self._job = job
        self._wanted = wanted
        self._folder = folder
        self._progress = progress
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = _study(folder / _JOURNAL)
        self._check_space()
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            # Of a search that was killed.
            self._study.tell(trial.number, state=TrialState.FAIL)
        self._study.sampler = optuna.samplers.TPESampler(seed=job.config.seed + len(self._study.trials))

    def _check_space(self) -> None:
        """Check that a search goes on in the space it began in: optuna can't compare other values."""
        known = self._study.user_attrs.get("space")
        if known is None:
            self._study.set_user_attr("space", dict(self._wanted.space))
        elif known != self._wanted.space:
            raise ConfigError(
                f"sweep: the space has changed since the search in {self._folder} began; give it the one it had, or "
                "begin anew with --overwrite"
            )

    def run(self) -> tuple[Trial, ...]:
        """Run the trials that are left and return all of them.

        Raises:
            TrainError: none of them came to its end.
        """
        total = self._wanted.trials
        self._progress("sweep", len(self._study.trials), total)
        while len(self._study.trials) < total:
            self._one(self._study.ask())
            self._progress("sweep", len(self._study.trials), total, self._note())
        trials = tuple(Trial.of(trial) for trial in self._study.trials)
        if not any(trial.score is not None and trial.state == "done" for trial in trials):
            reason = next((trial.reason for trial in trials if trial.reason), "all were cut short")
            raise TrainError(f"none of {len(trials)} trials came to its end; the first: {reason}")
        return trials

    def _one(self, trial: optuna.Trial) -> None:
        try:
            config = self._job.config.but(self._wanted.choose(trial))
            result = run(replace(self._job, config=config, heard=_judge(trial), progress=self._inside(trial)))
        except optuna.TrialPruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        except (ConfigError, TrainError) as error:
            # Sizes that don't fit each other, or a loss that is no number: such options are no good, others may be.
            trial.set_user_attr("reason", str(error))
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_user_attr("figures", result.figures())
            self._keep(result, trial)

    def _keep(self, result: TrainResult, trial: optuna.Trial) -> None:
        """Keep the model if it is the best so far; at any moment the best of the finished trials is on the disk."""
        score = score_of(result.val_loss, result.metrics)
        done = self._study.get_trials(states=(TrialState.COMPLETE,))
        if not all(score < before.value for before in done if before.value is not None):
            self._study.tell(trial, score)
            return
        kept = _kept_at(self._folder, trial.number + 1)
        shutil.rmtree(kept, ignore_errors=True)
        result.path.rename(kept)
        self._study.tell(trial, score)
        for other in self._folder.glob(f"{_BEST}.*"):
            if other != kept:
                shutil.rmtree(other, ignore_errors=True)

    def _inside(self, trial: optuna.Trial) -> Progress:
        def report(what: str, done: float, total: float, note: str = "") -> None:
            if what == "train":
                self._progress(f"trial {trial.number + 1}", done, total, note)

        return report

    def _note(self) -> str:
        done = self._study.get_trials(states=(TrialState.COMPLETE,))
        return f"best {min(trial.value for trial in done if trial.value is not None):.4g}" if done else ""


def _study(journal: Path) -> optuna.Study:
    """Return the search that a journal holds, begun if there is none.

    Raises:
        TrainError: the journal is damaged.
    """
    lines = journal.read_bytes() if journal.is_file() else b""
    if lines and not lines.endswith(b"\n"):
        # A line that was cut short would spoil the next.
        journal.write_bytes(lines[: lines.rfind(b"\n") + 1])
    try:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name=_STUDY,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_PRUNE_FROM),
        )
    except (ValueError, KeyError) as error:
        raise TrainError(
            f"{journal}: no journal of a search, cut short perhaps ({' '.join(str(error).split())}); the best model "
            f"beside it is not touched: copy {_BEST}.* away, and begin anew with --overwrite"
        ) from error


def _kept_at(folder: Path, number: int) -> Path:
    """Return where the model of a trial, counted from 1, is kept while it is the best."""
    return folder / f"{_BEST}.{number}"


def score_of(val_loss: float, metrics: Mapping[str, float]) -> float:
    """Return what a search makes small: the validation loss, or of a classifier the part that it gets wrong."""
    return 1 - metrics["accuracy"] if "accuracy" in metrics else val_loss


def _judge(trial: optuna.Trial) -> Callable[[Record], None]:
    """Return a listener that ends the trial where others were better at the same validation."""
    count = 0

    def hear(record: Record) -> None:
        nonlocal count
        trial.report(score_of(record.val_loss, record.metrics), count)
        count += 1
        if trial.should_prune():
            raise optuna.TrialPruned

    return hear


def _begin(target: Path, *, resume: bool, overwrite: bool) -> Path:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("--sweep runs in one process; leave torchrun out, or train without --sweep")
    folder = target.with_name(f"{target.name}.sweep")
    unfinished = (folder / _JOURNAL).is_file()
    check_target(target, overwrite=overwrite, marker=TRAINING)
    if resume and not unfinished:
        raise TrainError(f"{folder}: holds no search to go on with; leave out --resume to begin one")
    if unfinished and not resume and not overwrite:
        raise OutputError(f"{folder}: an unfinished search; go on with --resume, or begin anew with --overwrite")
    if folder.exists() and not unfinished and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: exists and holds no search of ours, so it is not replaced; choose another -o")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be written: {error.strerror or error}; choose another -o") from error
    return folder


def _publish(folder: Path, target: Path, trials: tuple[Trial, ...], *, overwrite: bool) -> TrainResult:
    best = min((trial for trial in trials if trial.state == "done"), key=lambda trial: (trial.score, trial.number))
    kept = _kept_at(folder, best.number)
    if not (kept / TRAINING).is_file():
        raise TrainError(f"{kept}: the best trial's model is gone; begin anew with --overwrite")
    files = Draft(kept, target, overwrite=overwrite, marker=TRAINING)
    files.write_json(TRIALS, to_json(trials))
    files.file(TABLE).write_text(table(trials) + "\n", encoding="utf-8")
    files.publish()
    return TrainResult(path=target, notes=(), **best.figures)
