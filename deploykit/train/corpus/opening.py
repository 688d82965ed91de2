"""Token files as examples: opened, never read as a whole."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from deploykit.errors import TrainError
from deploykit.train.config import Task, TrainConfig
from deploykit.train.corpus.augment import Augmenter
from deploykit.train.corpus.sequences import Sequences
from deploykit.train.corpus.store import Store, token_type
from deploykit.train.corpus.windows import Windows
from deploykit.train.tokenizer import BACK, Specials


@dataclass(frozen=True, kw_only=True)
class Opening:
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
