"""Trainings small enough to run many of: models and examples in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from deploykit.train.config import OptimConfig, TrainConfig
from deploykit.train.objective import Objective, objective_for
from deploykit.train.parts import IGNORED, Batch
from deploykit.train.trainer import Trainer

WORDS = ("<bos>", "<eos>", "<pad>", "<unk>", *(f"w{number}" for number in range(28)))


@dataclass
class Rows:
    """Examples that are lists of tokens, in batches of `size`; each token is followed by one that depends on it."""

    rows: Sequence[tuple[list[int], list[int]]]
    """(input tokens, labels) of each."""
    size: int = 4

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self) -> int:
        return -(-len(self.rows) // self.size)

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng([7, number]).permutation(len(self.rows))
        for first in range(skip * self.size, len(order), self.size):
            yield _batch([self.rows[place] for place in order[first : first + self.size]])

    def in_order(self, limit: int | None = None) -> Iterator[Batch]:
        rows = self.rows[:limit]
        for first in range(0, len(rows), self.size):
            yield _batch(rows[first : first + self.size])


def _batch(rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
    longest = max(len(inputs) for inputs, _ in rows)
    ids = torch.full((len(rows), longest), 2)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels = torch.full((len(rows), longest), IGNORED)
    for place, (inputs, right) in enumerate(rows):
        ids[place, : len(inputs)] = torch.tensor(inputs)
        mask[place, : len(inputs)] = 1
        labels[place, : len(right)] = torch.tensor(right)
    return Batch(
        inputs={"input_ids": ids, "attention_mask": mask}, labels=labels, tokens=int(mask.sum()), places=ids.numel()
    )


def texts(count: int = 24, *, longest: int = 12, seed: int = 0, size: int = 4) -> Rows:
    """Return running text of several lengths, in which each word is the one before plus one or two."""
    generator, rows = np.random.default_rng(seed), []
    for _ in range(count):
        steps = generator.integers(1, 3, size=int(generator.integers(4, longest)))
        words = [4 + int(word) % 28 for word in np.cumsum(steps)]
        rows.append(([0, *words[:-1]], words))
    return Rows(rows, size)


def tokenizer() -> Tokenizer:
    """Return one that knows `WORDS`."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    made.add_special_tokens(list(WORDS[:4]))
    return made


class Plain(nn.Module):
    """A decoder of torch's own parts: a process that trains it needn't import transformers, which takes seconds."""

    def __init__(self, *, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.table = nn.Embedding(32, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 32, dropout, batch_first=True)
        self.head = nn.Linear(width, 32, bias=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        del attention_mask  # rows are padded behind, and nothing looks ahead
        ahead = nn.Transformer.generate_square_subsequent_mask(input_ids.shape[1])
        return SimpleNamespace(logits=self.head(self.layer(self.table(input_ids), src_mask=ahead, is_causal=True)))

    def save_pretrained(self, folder: Path) -> None:
        (folder / "config.json").write_text("{}\n", encoding="utf-8")
        torch.save(self.state_dict(), folder / "weights.pt")


def plain(*, seed: int = 0, width: int = 16, dropout: float = 0.1) -> Plain:
    """Return a decoder with fresh weights."""
    torch.manual_seed(seed)
    return Plain(width=width, dropout=dropout)


def llama(*, seed: int = 0) -> nn.Module:
    """Return a decoder of transformers with fresh weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    model: nn.Module = LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=0, eos_token_id=1, pad_token_id=2))
    return model


@dataclass
class Writer:
    """Writes a model as the trainer asks for it."""

    model: nn.Module

    def __call__(self, folder: Path) -> None:
        self.model.save_pretrained(folder)  # type: ignore[operator] # as transformers' models do


def options(**optim: object) -> TrainConfig:
    """Return a configuration that differs from the usual one in how long it trains, in which steps."""
    return TrainConfig(optim=OptimConfig(**{"learning_rate": 1e-2, **optim}))  # type: ignore[arg-type]


def continuing(config: TrainConfig) -> Objective:
    """Return the objective of running text."""
    return objective_for("text-generation", config, tokenizer=tokenizer())


def trainer(folder: Path, config: TrainConfig, model: nn.Module | None = None, **rest: object) -> Trainer:
    """Return a trainer of a tiny decoder."""
    model = model or plain()
    folder.mkdir(exist_ok=True)
    return Trainer(model, continuing(config), config, folder=folder, write=Writer(model), **rest)  # type: ignore[arg-type]
