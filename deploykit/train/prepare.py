"""A data folder to batches: its files are read, cleaned and encoded once; training reads the token files."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import AddedToken, Tokenizer

from deploykit.errors import ConfigError, TrainError
from deploykit.progress import Progress, silent
from deploykit.train.config import Task, TrainConfig
from deploykit.train.corpus.augment import Augmenter
from deploykit.train.corpus.cleaning import Cleaning
from deploykit.train.corpus.making import Maker
from deploykit.train.corpus.reading import find
from deploykit.train.corpus.sequences import Sequences
from deploykit.train.corpus.store import Store, token_type
from deploykit.train.corpus.windows import Windows
from deploykit.train.parts import Examples
from deploykit.train.tokenizer import BACK, Specials

_RECORD: Final = "prepared.json"
"""Written last: token files without it were never finished."""
_TOKENIZER: Final = "tokenizer.json"
_FORMAT: Final = 1


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
        cache.mkdir(parents=True, exist_ok=True)
        maker = Maker(train=train, val=val, config=config, task=task, specials=specials, cache=cache, progress=progress)
        record = {"fingerprint": mark, "trained": tokenizer is None, **_made(maker, tokenizer, labels)}
        _write(cache / _RECORD, json.dumps(record))
    tokenizer = tokenizer or Tokenizer.from_file(str(cache / _TOKENIZER))
    opening = _Opening(config=config, task=task, tokenizer=tokenizer, specials=specials, cache=cache)
    first, second = opening.running(train, val) if task == "text-generation" else opening.sequences()
    return Prepared(
        train=first,
        val=second,
        tokenizer=tokenizer,
        labels=tuple(record["labels"]),
        report=Cleaning.from_json(record["report"]),
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


def _made(maker: Maker, tokenizer: Tokenizer | None, labels: Sequence[str] | None) -> dict[str, Any]:
    """Make the token files and return what is to be known of them."""
    tokenizer = tokenizer or maker.tokenizer()
    _write(maker.cache / _TOKENIZER, tokenizer.to_str())
    if maker.task == "text-generation":
        return {"report": maker.running(tokenizer).to_json(), "labels": []}
    report, names = maker.sequences(tokenizer, labels)
    return {"report": report.to_json(), "labels": names}


def _fingerprint(files: list[Path | None], config: TrainConfig, task: Task, given: list[Any]) -> str:
    """Return what tells token files from those of other text, or made in another way."""
    stats = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file]
    what = [_FORMAT, stats, asdict(config.data), asdict(config.augment), config.seed, task, given]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


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


@dataclass(frozen=True, kw_only=True)
class _Opening:
    """Token files about to be read."""

    config: TrainConfig
    task: Task
    tokenizer: Tokenizer
    specials: Specials
    cache: Path

    def running(self, train: Path, val: Path | None) -> tuple[Windows, Windows]:
        """Return the windows of training and validation; without a file for it, validation is the training's end."""
        whole = self._store("train")
        end = len(whole.numbers) - (0 if val else round(self.config.data.val_split * len(whole.numbers)))
        held = self._store("val") if val else whole
        first = self._windows(whole, 0, end, augment=True)
        second = self._windows(held, 0 if val else end, len(held.numbers), augment=False)
        self._check_length(first, train, rows=self.config.optim.batch_size)
        self._check_length(second, val or train, rows=1)
        return first, second

    def _windows(self, store: Store, start: int, end: int, *, augment: bool) -> Windows:
        return Windows(
            store=store,
            start=start,
            end=end,
            length=self.config.data.sequence_length,
            size=self.config.optim.batch_size,
            bos=self.specials.bos,
            seed=self.config.seed,
            augmenter=self._augmenter() if augment else None,
        )

    def _check_length(self, windows: Windows, file: Path, *, rows: int) -> None:
        tokens = windows.end - windows.start
        if not tokens:
            raise TrainError(f"{file}: holds no text; put in it what the model should learn to write")
        if len(windows) < rows:
            raise TrainError(
                f"{file}: {tokens} tokens, but {rows} × {windows.length} are needed for one batch; "
                "give more text, or lower --batch-size or --sequence-length"
            )

    def sequences(self) -> tuple[Sequences, Sequences]:
        """Return the pairs or the labelled texts of training and validation."""
        return self._sequences("train"), self._sequences("val")

    def _sequences(self, split: str) -> Sequences:
        pairs, data, augment = self.task == "text2text-generation", self.config.data, self.config.augment
        learnt = split == "train"
        sources, targets = self._store(f"{split}.source"), self._store(f"{split}.target") if pairs else None
        turnable = None
        if learnt and augment.back_pairs and targets:
            every = np.arange(len(sources))
            fits = (targets.lengths(every) < data.max_source_tokens) & (
                sources.lengths(every) <= data.max_target_tokens
            )
            turnable = np.flatnonzero(fits)
        return Sequences(
            sources=sources,
            targets=targets,
            values=None if pairs else np.load(self.cache / f"{split}.npy"),
            specials=self.specials,
            size=self.config.optim.batch_tokens if pairs else self.config.optim.batch_size,
            seed=self.config.seed,
            augmenter=self._augmenter() if learnt else None,
            texts=Store(self.cache / f"{split}.text", np.uint8)
            if learnt and (augment.case_noise or augment.char_noise)
            else None,
            turnable=turnable,
            turned=0 if turnable is None else round(augment.back_pairs * len(turnable)),
            back=self._back() if turnable is not None else (0, 0),
            max_source=data.max_source_tokens,
        )

    def _store(self, name: str) -> Store:
        return Store(self.cache / name, token_type(self.tokenizer.get_vocab_size()))

    def _back(self) -> tuple[int, int]:
        """Return `<back>` and how many special tokens stand before it."""
        before = 0
        for special in self.tokenizer.encode("a").special_tokens_mask:
            before += special
            if not special:
                break
        token = self.tokenizer.token_to_id(BACK)
        assert token is not None
        return token, before

    def _augmenter(self) -> Augmenter | None:
        if not self.config.augment.any:
            return None
        added = self.tokenizer.get_added_tokens_decoder()
        kept = frozenset(number for number, token in added.items() if token.special)
        return Augmenter(config=self.config.augment, tokenizer=self.tokenizer, unk=self.specials.unk or 0, kept=kept)
