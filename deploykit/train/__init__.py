"""Train a small decoder on plain text: tokenizer, model and log in Hugging Face's layout."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from deploykit.config import TrainConfig
from deploykit.draft import draft
from deploykit.progress import Progress, silent
from deploykit.train.checkpoint import TRAINING, write_checkpoint
from deploykit.train.data import blocks, check_length, encode, read_texts
from deploykit.train.model import build_model
from deploykit.train.tokenizer import train_tokenizer
from deploykit.train.trainer import Trainer

__all__ = ["TrainResult", "train"]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training came to."""

    path: Path
    parameters: int
    """Weights of the model, the tied embedding counted once."""
    steps: int
    seconds: float
    """Time in the training loop, without tokenizer and final validation."""
    tokens: int
    """Tokens trained on, repetitions counted."""
    tokens_per_second: float
    train_loss: float
    """Mean of the last 20 steps, in nats a token."""
    val_loss: float
    """Of the trained model on the first 256 windows of val.txt, in nats a token."""
    val_perplexity: float
    """exp(val_loss)."""


def train(
    data: Path,
    out: Path,
    config: TrainConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
) -> TrainResult:
    """Train a tokenizer and a Llama on `data`, write both to `out`, and return how it went.

    Args:
        data: folder with `train.txt` and `val.txt`, UTF-8; a document ends where the text says `<eos>`.
        out: the checkpoint's folder; it appears in one rename, once it is whole.
        config: the model's size and how long to train it; `TrainConfig()` where None. With `max_steps`, the same seed
            on the same machine gives the same weights, bit for bit.
        overwrite: whether a checkpoint of ours at `out` may be replaced.
        progress: told of each stage; the training itself is reported in seconds (in steps with `max_steps`).

    Raises:
        TrainError: the text is missing, empty, not UTF-8 or too short, or the loss is no longer a number.
        OutputError: `out` exists already or can't be written.
    """
    config = config or TrainConfig()
    with draft(out, overwrite=overwrite, marker=TRAINING) as files, torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        texts = read_texts(data)
        progress("train the tokenizer", 0, 0)
        tokenizer = train_tokenizer(blocks(texts.train), config.vocab_size)
        progress("train the tokenizer", 1, 1, f"{tokenizer.get_vocab_size():,} entries")
        text = encode(texts.train, tokenizer, progress=progress)
        held_out = encode(texts.val, tokenizer)
        check_length(text, data / "train.txt", rows=config.batch_size, length=config.sequence_length)
        check_length(held_out, data / "val.txt", rows=1, length=config.sequence_length)
        trainer = Trainer(build_model(config, vocab_size=tokenizer.get_vocab_size()), config)
        log = trainer.fit(text, held_out, progress=progress)
        last = log[-1]
        result = TrainResult(
            path=out,
            parameters=trainer.model.num_parameters(),
            steps=last.step,
            seconds=last.seconds,
            tokens=last.tokens,
            tokens_per_second=last.tokens / last.seconds,
            train_loss=last.train_loss,
            val_loss=last.val_loss,
            val_perplexity=math.exp(last.val_loss),
        )
        figures = {name: value for name, value in dataclasses.asdict(result).items() if name != "path"}
        write_checkpoint(files, trainer.model, tokenizer, config, log=log, result=figures)
    return result
