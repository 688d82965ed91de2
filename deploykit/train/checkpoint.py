"""A trained model on disk, in Hugging Face's layout."""

import dataclasses
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError

from deploykit.draft import Draft
from deploykit.errors import OutputError
from deploykit.quiet import quiet
from deploykit.train.config import TrainConfig
from deploykit.train.config_file import CONFIG, write_config
from deploykit.train.keeping import BEST, LAST
from deploykit.train.record import Fit
from deploykit.train.watch.curve import loss_curve

TRAINING: Final = "training.json"
"""How the model came about; also what marks a folder as one that `--overwrite` may replace."""
CURVE: Final = "loss.png"
_PACKAGES: Final = ("deploykit", "torch", "transformers", "tokenizers", "peft")


def save_model(model: Any, folder: Path, save_tokenizer: Callable[[Path], None]) -> None:
    """Write the model as it stands, updates merged into its weights, and its tokenizer.

    Raises:
        OutputError: the disk is full.
    """
    with _room(folder), quiet():
        if hasattr(model, "peft_config"):
            # Here, since importing peft takes a second that most trainings needn't wait.
            from deploykit.train.lora import merged

            below, weights = merged(model)
            below.save_pretrained(folder, state_dict=dict(weights))
        else:
            model.save_pretrained(folder)
        save_tokenizer(folder)
    # safetensors writes for this user alone; a checkpoint's files are as readable as the umask says.
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)


def publish(
    partial: Path,
    target: Path,
    config: TrainConfig,
    fit: Fit,
    *,
    result: Mapping[str, Any],
    data: Mapping[str, Any],
    base: str | None,
    overwrite: bool,
) -> None:
    """Make the finished checkpoint of the best model in `partial`, and move it to `target` in one rename.

    Args:
        partial: what the training kept while it ran; gone at the end.
        target: the checkpoint's folder.
        config: all options.
        fit: the log and the losses.
        result: the figures for training.json.
        data: what was read and what was left out.
        base: the checkpoint that was fine-tuned, if one was.
        overwrite: whether a checkpoint at `target` may be replaced.

    Raises:
        OutputError: the disk is full, or the target appeared meanwhile.
    """
    # Another folder of the same files: whenever it is killed, what it can go on from is whole.
    staging = partial / ".done.partial"
    with _room(target):
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(partial / BEST, staging, copy_function=_link)
        files = Draft(staging, target, overwrite=overwrite, marker=TRAINING)
        training = {
            "config": config.to_json(),
            "base": base,
            "data": data,
            "result": result,
            "versions": {package: version(package) for package in _PACKAGES},
            "log": [dataclasses.asdict(record) for record in fit.log],
        }
        files.write_json(TRAINING, training)
        write_config(files.file(CONFIG), config)
        loss_curve(fit, files.file(CURVE))
        if config.keep_last:
            shutil.copytree(partial / LAST, files.path / LAST, copy_function=_link)
        files.publish()
    shutil.rmtree(partial, ignore_errors=True)


def _link(source: str, target: str) -> None:
    """Give a file a second name, or where the file system can't, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Say in one line that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise OutputError(f"{folder}: can't be written: {error.strerror}; make room") from error
        raise
    except SafetensorError as error:
        # The system's number is in its text alone.
        if f"code: {errno.ENOSPC}" not in str(error) and f"code: {errno.EDQUOT}" not in str(error):
            raise
        raise OutputError(f"{folder}: can't be written: no space left on the device; make room") from error
