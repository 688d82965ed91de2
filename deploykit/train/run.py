"""A training from a folder of text to a checkpoint: the parts in their order."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial as bound
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch
from tokenizers import Tokenizer

from deploykit.errors import ConfigError, TrainError
from deploykit.progress import Progress, silent
from deploykit.train.base import Base, open_base
from deploykit.train.build import build_model
from deploykit.train.checkpoint import TRAINING, publish, save_model
from deploykit.train.config import Task, TrainConfig
from deploykit.train.config_file import CONFIG, write_config
from deploykit.train.corpus.reading import find
from deploykit.train.distributed import barrier, joined, world
from deploykit.train.keeping import LAST
from deploykit.train.objective import objective_for
from deploykit.train.partial import begin, check_apart, end, partial_folder
from deploykit.train.prepare import Prepared, prepare
from deploykit.train.record import Fit, Record
from deploykit.train.result import TrainResult
from deploykit.train.tokenizer import Specials, save_tokenizer
from deploykit.train.trainer import Trainer

_TOKENS: Final = "tokens"
"""Folder of the texts as token ids, while it runs."""
_SMOOTH: Final = 20  # steps that the training loss is averaged over


def train(
    data: Path,
    out: Path,
    config: TrainConfig | None = None,
    *,
    base: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: Path | None = None,
    trace: Path | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Train a model on `data`, write it with its tokenizer to `out`, and return how it went.

    While it runs, `out`.partial holds the best and the last model; an interruption leaves it, to be gone on with. Where
    torchrun started several processes they train one model together: without dropout, to the same losses as one.

    Args:
        data: folder with train.txt and val.txt, or .tsv, .jsonl or .csv: running text, pairs or labelled texts.
        out: the checkpoint's folder; it appears in one rename, once it is whole.
        config: all options; `TrainConfig()` where None. The same seed on the same machine gives the same weights, bit
            for bit, unless time ends the training.
        base: a checkpoint to fine-tune, a folder or a hub id; a model with fresh weights is made where None.
        resume: whether to go on with the training that `out`.partial, or the folder `last` in `out`, holds.
        overwrite: whether a checkpoint of ours at `out`, and an unfinished training of it, may be replaced.
        tensorboard: folder for TensorBoard's scalars, samples and pictures.
        trace: folder for a profile of a few steps.
        progress: told of each stage.

    Raises:
        TrainError: the data can't be trained on, the loss is no longer a number, or there is nothing to resume.
        ConfigError: options don't fit each other or the checkpoint.
        CheckpointError: the checkpoint to fine-tune is missing or damaged.
        OutputError: `out` exists already or can't be written.
    """
    config = config or TrainConfig()
    job = Job(
        data=data,
        target=out.parent.resolve() / out.name,
        config=config,
        base=base,
        resume=resume,
        overwrite=overwrite,
        tensorboard=tensorboard,
        trace=trace,
        progress=progress,
    )
    with joined(), threads(config.threads), torch.random.fork_rng(devices=[]):
        return dataclasses.replace(run(job), path=out)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: what `train` was told."""

    data: Path
    target: Path
    config: TrainConfig
    base: str | Path | None = None
    resume: bool = False
    overwrite: bool = False
    tensorboard: Path | None = None
    trace: Path | None = None
    cache: Path | None = None
    """Where texts lie as token ids; beside the checkpoints where None."""
    heard: Callable[[Record], None] | None = None
    """Told of each validation; what it raises ends the training."""
    progress: Progress = field(default=silent)


def run(job: Job) -> TrainResult:
    """Do one training and return how it went."""
    folder = partial_folder(job.target)
    for read in (job.data, job.base):
        check_apart(folder, read)
    plan = _planned(job)
    if world().leads:
        begin(job.target, resume=job.resume, overwrite=job.overwrite, marker=TRAINING)
    barrier()
    try:
        return _train(job, plan, folder)
    except BaseException as error:
        if world().leads:
            end(folder, error)
        raise


def _planned(job: Job) -> tuple[Base | None, Task, TrainConfig]:
    """Return the checkpoint to fine-tune, the task and all options, checked before anything is written."""
    base = open_base(job.base, task=job.config.task) if job.base else None
    task: Task = base.task if base else job.config.task or "text-generation"
    config = job.config.resolved(task, fine_tuned=base is not None)
    _check_lengths(config, task, base.limit if base else config.model.max_context)
    find(job.data, "train")
    return base, task, config


def _train(job: Job, plan: tuple[Base | None, Task, TrainConfig], folder: Path) -> TrainResult:
    base, task, config = plan
    if world().leads:
        write_config(folder / CONFIG, config)
    prepared = _prepare(job, config, task, base, folder)
    # Here, so that the first weights don't depend on what the data took from the generator.
    torch.manual_seed(config.seed)
    model, parameters = _model(config, task, base, prepared)
    specials = base.specials if base else Specials()
    objective = objective_for(
        task,
        config,
        tokenizer=prepared.tokenizer,
        labels=prepared.labels,
        start=specials.start,
        eos=specials.eos,
    )
    trainer = Trainer(
        model,
        objective,
        config,
        folder=folder,
        write=bound(save_model, model, save_tokenizer=_saver(config, base, prepared.tokenizer)),
        tensorboard=job.tensorboard,
        trace=job.trace,
        heard=job.heard,
        progress=job.progress,
    )
    fit = trainer.fit(prepared.train, prepared.val, data=prepared.fingerprint, resume=job.resume)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    result = _result(job.target, fit, prepared, parameters=parameters, trained=trained)
    if world().leads:
        publish(
            folder,
            job.target,
            config,
            fit,
            result=result.figures(),
            data=prepared.report.to_json(),
            base=Path(job.base).name if job.base else None,
            overwrite=job.overwrite,
        )
    barrier()
    return result


def _prepare(job: Job, config: TrainConfig, task: Task, base: Base | None, folder: Path) -> Prepared:
    """Return the data as token ids; the leading process makes them, the others open what it made."""
    cache = job.cache or folder / _TOKENS
    saved = folder / LAST / "tokenizer.json"
    known = Tokenizer.from_file(str(saved)) if job.resume and saved.is_file() else None
    tokenizer = base.tokenizer if base else None
    if tokenizer is None and known and not cache.exists():
        tokenizer = known

    def read() -> Prepared:
        return prepare(
            job.data,
            config,
            task=task,
            tokenizer=tokenizer,
            specials=base.specials if base else None,
            labels=base.labels if base else None,
            cache=cache,
            progress=job.progress,
        )

    prepared = read() if world().leads else None
    barrier()
    prepared = prepared or read()
    if known and known.to_str() != prepared.tokenizer.to_str():
        raise TrainError(
            f"{job.data}: its text, or the options of its tokenizer, have changed since the training began; give it "
            "what it was begun with, or begin anew without --resume"
        )
    return prepared


def _model(config: TrainConfig, task: Task, base: Base | None, prepared: Prepared) -> tuple[Any, int]:
    """Return the model to train and how many weights it has, updates not counted."""
    if base is None:
        entries = prepared.tokenizer.get_vocab_size()
        model = build_model(config.model, task=task, vocab_size=entries, labels=prepared.labels)
        return model.train(), model.num_parameters()
    model = base.model(prepared.tokenizer, prepared.labels)
    parameters = model.num_parameters()
    if config.lora.lora_rank:
        # Here, since importing peft takes a second that most trainings needn't wait.
        from deploykit.train.lora import with_lora

        model = with_lora(model, config.lora, task=task)
    return model, parameters


def _saver(config: TrainConfig, base: Base | None, tokenizer: Tokenizer) -> Callable[[Path], None]:
    if base:
        return bound(base.save_tokenizer, tokenizer)
    return bound(save_tokenizer, tokenizer, max_context=config.model.max_context)


def _result(target: Path, fit: Fit, prepared: Prepared, *, parameters: int, trained: int) -> TrainResult:
    return TrainResult(
        path=target,
        parameters=parameters,
        trained_parameters=trained,
        steps=fit.steps,
        best_step=fit.best.step,
        epochs=fit.epochs,
        stopped=fit.stopped,
        seconds=fit.training_seconds,
        tokens=fit.tokens,
        tokens_per_second=fit.tokens / max(fit.training_seconds, 1e-9),
        padding=fit.padding,
        train_loss=fmean(fit.losses[-_SMOOTH:]),
        val_loss=fit.best.val_loss,
        metrics=dict(fit.best.metrics),
        notes=tuple(prepared.report.notes()),
    )


def _check_lengths(config: TrainConfig, task: Task, limit: int | None) -> None:
    """Check that the longest examples fit the model."""
    names = {
        "text-generation": ("sequence_length",),
        "text2text-generation": ("max_source_tokens", "max_target_tokens"),
    }.get(task, ("max_source_tokens",))
    for name in names:
        length = getattr(config.data, name)
        if limit is not None and length > limit:
            raise ConfigError(
                f"{name} {length} exceeds the {limit} positions of the model; pass --{name.replace('_', '-')} {limit} "
                "or less, or give a new model a larger --max-context"
            )


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Let PyTorch have so many threads for a while, as many as it has where None."""
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
