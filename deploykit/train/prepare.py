"""A data folder to batches: its files are read, cleaned and encoded once; training reads the token files."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from deploykit.errors import ConfigError, TrainError
from deploykit.progress import Progress, silent
from deploykit.train.config import Task, TrainConfig
from deploykit.train.corpus.cleaning import Cleaning
from deploykit.train.corpus.making import Maker
from deploykit.train.corpus.opening import Opening
from deploykit.train.corpus.reading import find
from deploykit.train.corpus.store import room
from deploykit.train.parts import Examples
from deploykit.train.tokenizer import BACK, Specials

_RECORD: Final = "prepared.json"
"""Written last: token files without it were never finished."""
_TOKENIZER: Final = "tokenizer.json"
_FORMAT: Final = 2


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a training reads."""

    train: Examples
    val: Examples
    tokenizer: Tokenizer
    """The one given, or the one trained; with `<back>` where pairs are turned back."""
    labels: tuple[str, ...]
    """Names of the classes, by number; none but for text-classification."""
    report: Cleaning
    fingerprint: str
    """Tells these examples from others, wherever their files lie and whenever these were written."""


def prepare(
    folder: Path,
    config: TrainConfig,
    *,
    task: Task,
    tokenizer: Tokenizer | None = None,
    specials: Specials | None = None,
    labels: Sequence[str] | None = None,
    cache: Path,
    progress: Progress = silent,
) -> Prepared:
    """Return the examples of `folder`, read from token files under `cache`.

    Token files that were made from the same files in the same way are used again.

    Args:
        folder: holds a training file and, unless `val_split` takes from it, a validation file.
        config: its groups `data`, `augment` and `optim`, and its seed.
        task: what the files hold: running text, pairs, or texts with labels.
        tokenizer: of a checkpoint that is fine-tuned, neither truncating nor padding; one is trained where None.
        specials: ids of that tokenizer's special tokens; those of our own where None.
        labels: of a checkpoint that is fine-tuned, in its order; those of the training file where None.
        cache: for the token files; made if need be, and to be kept as long as the examples are read.
        progress: told of tokenizer and encoding.

    Raises:
        TrainError: a file is missing, empty, not UTF-8, or otherwise not what the task reads.
        ConfigError: an augmentation that the task or the tokenizer doesn't allow.
        OutputError: the disk is full.
    """
    specials = specials or Specials()
    _check_augment(config, task, specials)
    train, val = _files(folder, config)
    if tokenizer and config.augment.back_pairs:
        tokenizer.add_special_tokens([AddedToken(BACK, normalized=False)])
    mark = _fingerprint([train, val], config, task, [labels and list(labels), asdict(specials)])
    record = _recorded(cache, mark, tokenizer)
    if not record:
        maker = Maker(train=train, val=val, config=config, task=task, specials=specials, cache=cache, progress=progress)
        with room(cache):
            record = _made(maker, mark, tokenizer, labels)
    tokenizer = tokenizer or Tokenizer.from_file(str(cache / _TOKENIZER))
    opening = Opening(config=config, task=task, tokenizer=tokenizer, specials=specials, cache=cache)
    first, second = opening.running(train, val) if task == "text-generation" else opening.sequences()
    report = Cleaning.from_json(record["report"])
    return Prepared(
        train=first,
        val=second,
        tokenizer=tokenizer,
        labels=tuple(record["labels"]),
        report=report,
        fingerprint=record["contents"],
    )


def _check_augment(config: TrainConfig, task: Task, specials: Specials) -> None:
    augment = config.augment
    if augment.back_pairs and task != "text2text-generation":
        raise ConfigError(f"back_pairs turns pairs round, which {task} has none of; leave it at 0")
    if task == "text-generation" and (augment.case_noise or augment.char_noise):
        raise ConfigError(
            "case_noise and char_noise vary what is read and not what is learnt: running text is both; "
            "leave them at 0, or use token_dropout or span_mask"
        )
    if specials.unk is None and (augment.token_dropout or augment.span_mask):
        raise ConfigError("token_dropout and span_mask need an <unk> token, which this tokenizer has none of")


def _files(folder: Path, config: TrainConfig) -> tuple[Path, Path | None]:
    train, val = find(folder, "train"), find(folder, "val")
    if not train:
        raise TrainError(f"{folder / 'train.txt'}: no such file; a data folder holds train.txt and val.txt")
    if not val and not config.data.val_split:
        raise TrainError(
            f"{folder / 'val.txt'}: no such file; give one, or hold a part of {train.name} out: --val-split 0.05"
        )
    return train, val


def _made(maker: Maker, mark: str, tokenizer: Tokenizer | None, labels: Sequence[str] | None) -> dict[str, Any]:
    """Make the token files and return what is to be known of them."""
    maker.cache.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"fingerprint": mark, "trained": tokenizer is None, "labels": []}
    tokenizer = tokenizer or maker.tokenizer()
    _write(maker.cache / _TOKENIZER, tokenizer.to_str())
    if maker.task == "text-generation":
        report = maker.running(tokenizer)
    else:
        report, record["labels"] = maker.sequences(tokenizer, labels)
    record["report"] = report.to_json()
    record["contents"] = _contents(maker.cache, record["labels"])
    _write(maker.cache / _RECORD, json.dumps(record))
    return record


def _fingerprint(files: list[Path | None], config: TrainConfig, task: Task, given: list[Any]) -> str:
    """Return what tells token files from those of other text, or made in another way."""
    stats = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file]
    what = [_FORMAT, stats, asdict(config.data), asdict(config.augment), config.seed, task, given]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _contents(cache: Path, labels: Sequence[str]) -> str:
    """Return the hash of the token files: the texts themselves, where letters are varied, say nothing more."""
    digest = hashlib.blake2b(json.dumps(labels).encode(), digest_size=16)
    for file in sorted(cache.iterdir()):
        if file.suffix in (".bin", ".idx", ".npy") and ".text." not in file.name:
            with file.open("rb") as stream:
                digest.update(file.name.encode() + hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def _recorded(cache: Path, mark: str, tokenizer: Tokenizer | None) -> dict[str, Any] | None:
    """Return the record of token files made before, None where there are none or they were made of something else."""
    file = cache / _RECORD
    if not file.exists():
        return None
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if record["fingerprint"] == mark:
        made = (cache / _TOKENIZER).read_text(encoding="utf-8")
        if (tokenizer.to_str() == made) if tokenizer else record["trained"]:
            return record
    # Whatever ends the making of the new ones, the old ones aren't whole any more.
    file.unlink()
    return None


def _write(file: Path, text: str) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)
