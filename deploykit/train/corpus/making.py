"""The token files of a data folder: made in two passes, one that trains a tokenizer and one that encodes."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from deploykit.errors import TrainError
from deploykit.progress import Progress
from deploykit.train.config import Task, TrainConfig
from deploykit.train.corpus.cleaning import Cleaning, Counts, Tally
from deploykit.train.corpus.encoding import SequenceWriter, encoded, held_out, write_running
from deploykit.train.corpus.examples import Example, check_kept, examples, running
from deploykit.train.corpus.labels import Classes, number
from deploykit.train.corpus.reading import Told
from deploykit.train.corpus.store import token_type
from deploykit.train.tokenizer import BACK, Specials, train_tokenizer

SAMPLE: Final = 1 << 27
"""Bytes of a training file that a tokenizer is trained on, taken evenly from all of it: more change few entries."""

_LONG: Final = 1 << 13
"""Characters of an example that a tokenizer is trained on: its time grows with the square of a word's length."""


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Writes a folder of token files."""

    train: Path
    val: Path | None
    """None where validation examples are held out of the training file."""
    config: TrainConfig
    task: Task
    specials: Specials
    cache: Path
    progress: Progress

    def tokenizer(self) -> Tokenizer:
        """Return a tokenizer trained on the training file, or on a sample of a large one."""
        self.progress("train the tokenizer", 0, 0)
        every = -(-self.train.stat().st_size // SAMPLE)
        texts = (text for index, text in enumerate(self._texts()) if index % every == 0)
        tokenizer = train_tokenizer(
            texts,
            self.config.data.vocab_size,
            kind=self.config.data.tokenizer,
            task=self.task,
            extra=[BACK] if self.config.augment.back_pairs else [],
        )
        self.progress("train the tokenizer", 1, 1, f"{tokenizer.get_vocab_size():,} entries")
        return tokenizer

    def _texts(self) -> Iterator[str]:
        if self.task == "text-generation":
            yield from running(self.train, self.config.data, Tally(), _nobody)
            return
        for example in examples(self.train, self.config.data, self.task, Tally(), _nobody):
            if not self._held_out(example):
                yield example.source[:_LONG]
                if self.task == "text2text-generation":
                    yield example.target[:_LONG]

    def running(self, tokenizer: Tokenizer) -> Cleaning:
        """Write the tokens of running text and return what became of its lines."""
        counts = []
        for split, file in (("train", self.train), ("val", self.val)):
            if file:
                tally = Tally()
                texts = running(file, self.config.data, tally, self._told(file))
                write_running(texts, tokenizer, self.cache / split, eos=self.specials.eos)
                self._told(file)(file.stat().st_size)
                read = tally.counts()
                tally.add("kept", read.lines - read.empty)
                counts.append(tally.counts())
        return Cleaning(train=counts[0], val=counts[1] if self.val else Counts())

    def sequences(self, tokenizer: Tokenizer, labels: Sequence[str] | None) -> tuple[Cleaning, tuple[str, ...]]:
        """Write the tokens of pairs or labelled texts; return what became of the lines, and the names of the classes.

        Raises:
            TrainError: a line is bad, nothing is left of a file, or a label is unknown.
        """
        classes = Classes(labels)
        with ExitStack() as stack:
            writers = {split: stack.enter_context(self._writer(tokenizer, split)) for split in ("train", "val")}
            train = self._read(self.train, tokenizer, classes, writers, learn=True)
            val = self._read(self.val, tokenizer, classes, writers, learn=False) if self.val else Counts()
        if not self.val:
            self._check_split(writers)
        names, final = classes.ordered()
        if self.task != "text2text-generation":
            if self.task == "text-classification" and len(names) < 2:
                raise TrainError(f"{self.train}: every text has the label {names[0]!r}; a classifier needs two")
            for split, writer in writers.items():
                numbers = np.array(writer.values, dtype=np.float32)
                regression = self.task == "text-regression"
                np.save(self.cache / f"{split}.npy", numbers if regression else final[numbers.astype(np.int64)])
        return Cleaning(train=train, val=val), names

    def _writer(self, tokenizer: Tokenizer, split: str) -> SequenceWriter:
        return SequenceWriter(
            self.cache,
            split,
            kind=token_type(tokenizer.get_vocab_size()),
            pairs=self.task == "text2text-generation",
            texts=split == "train" and bool(self.config.augment.case_noise or self.config.augment.char_noise),
        )

    def _read(
        self, file: Path, tokenizer: Tokenizer, classes: Classes, writers: dict[str, SequenceWriter], *, learn: bool
    ) -> Counts:
        tally = Tally()
        found = examples(file, self.config.data, self.task, tally, self._told(file))
        pairs, firsts = self.task == "text2text-generation", set[str]()
        for example, source, target in encoded(found, tokenizer, self.config.data, tally, pairs=pairs):
            # The first text of each label is always learnt from.
            if self.task == "text-classification" and example.target not in classes:
                firsts.add(example.source)
            held = example.source not in firsts and self._held_out(example)
            split = "train" if learn and not held else "val"
            if self.task == "text-classification":
                one = classes.learn(example, file) if learn else classes.find(example, file, self.train)
                writers[split].values.append(one)
            elif self.task == "text-regression":
                writers[split].values.append(number(example, file))
            writers[split].add(example, source, target)
            tally.add("kept")
        self._told(file)(file.stat().st_size)
        check_kept(file, tally.counts(), self.task)
        return tally.counts()

    def _held_out(self, example: Example) -> bool:
        part = 0.0 if self.val else self.config.data.val_split
        return held_out(example.source, seed=self.config.seed, part=part)

    def _check_split(self, writers: dict[str, SequenceWriter]) -> None:
        for split, writer in writers.items():
            if not writer.count:
                raise TrainError(
                    f"{self.train}: too few examples for a --val-split of {self.config.data.val_split:g}: "
                    f"none is left for {'training' if split == 'train' else 'validation'}; give more, or a val.txt"
                )

    def _told(self, file: Path) -> Told:
        size = file.stat().st_size
        return lambda read: self.progress(f"encode {file.name}", min(read, size), size)


def _nobody(read: int) -> None:
    """Take no notice."""
