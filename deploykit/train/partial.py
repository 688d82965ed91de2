"""Where a training lies until it is done: a folder beside its output, which an interruption leaves whole."""

import shutil
from pathlib import Path

from deploykit.draft import check_target
from deploykit.errors import OutputError, TrainError
from deploykit.train.config_file import CONFIG
from deploykit.train.keeping import BEST, LAST
from deploykit.train.state import STATE


def partial_folder(target: Path) -> Path:
    """Return where the training of `target` lies until it is done.

    Raises:
        OutputError: the target is the root of a file system.
    """
    if not target.name:
        raise OutputError(f"{target}: no folder of its own to write to; choose another -o")
    return target.with_name(f"{target.name}.partial")


def begin(target: Path, *, resume: bool, overwrite: bool, marker: str) -> Path:
    """Return the folder of a training that begins or goes on, made where there is none.

    Args:
        target: where the finished checkpoint will lie.
        resume: whether an earlier training is gone on with: an unfinished one, or one that kept its last state.
        overwrite: whether a checkpoint of ours at `target`, and an unfinished training, may be replaced.
        marker: the file by which a checkpoint is known as one of ours.

    Raises:
        OutputError: there is something that may not be replaced, or nothing can be written there.
        TrainError: there is nothing to go on with.
    """
    folder = partial_folder(target)
    _check_name(folder)
    unfinished = can_resume(folder)
    if resume and not unfinished and not (target / LAST / STATE).is_file():
        if (target / marker).is_file():
            raise TrainError(
                f"{target}: the training is done, and its last state wasn't kept; train the model on with --from "
                f"{target} and another -o (another time, --keep-last keeps it)"
            )
        raise TrainError(f"{folder}: holds no training to go on with; leave out --resume to begin one")
    check_target(target, overwrite=overwrite, marker=marker)
    if unfinished and not resume and not overwrite:
        raise OutputError(f"{folder}: an unfinished training; go on with --resume, or begin anew with --overwrite")
    if folder.exists() and not (folder / CONFIG).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: exists and holds no {CONFIG} of ours, so it is not replaced; choose another -o")
    try:
        if not (resume and unfinished):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        if resume and not unfinished:
            _take_up(target, folder)
    except OSError as error:
        raise OutputError(f"{folder}: can't be written: {error.strerror or error}; choose another -o") from error
    return folder


def saved_config(target: Path) -> Path | None:
    """Return the file of the options of the training that `--resume` would go on with, None where there is none."""
    if can_resume(partial_folder(target)):
        return partial_folder(target) / CONFIG
    return target / CONFIG if (target / LAST / STATE).is_file() else None


def can_resume(folder: Path) -> bool:
    """Return whether a training can be gone on with from `folder`."""
    return (folder / LAST / STATE).is_file()


def end(folder: Path, error: BaseException) -> None:
    """Say in `error` how to go on, where something was learned; else leave nothing behind."""
    if can_resume(folder):
        error.add_note(f"{folder} keeps what was learned so far; --resume goes on from there")
    else:
        shutil.rmtree(folder, ignore_errors=True)


def check_apart(folder: Path, read: Path | str | None) -> None:
    """Check that what is about to be read isn't in the folder of an unfinished training, which may be removed.

    Raises:
        OutputError: it is.
    """
    if read and Path(read).resolve().is_relative_to(folder.resolve()):
        raise OutputError(f"{read}: lies in {folder}, which this training writes to; choose another -o, or move it")


def _check_name(folder: Path) -> None:
    try:
        folder.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{folder}: can't be written: {error.strerror or error}; choose another -o") from error


def _take_up(target: Path, folder: Path) -> None:
    """Copy a finished training to where an unfinished one would lie."""
    # The last one makes it a training to go on with: it comes in one rename, when all else is there.
    shutil.copyfile(target / CONFIG, folder / CONFIG)
    shutil.copytree(target, folder / BEST, ignore=shutil.ignore_patterns(LAST))
    shutil.copytree(target / LAST, folder / f".{LAST}.partial")
    (folder / f".{LAST}.partial").rename(folder / LAST)
