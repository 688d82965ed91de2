"""Text on disk to batches of token ids.

A data folder holds `train.txt` and `val.txt`, UTF-8. A document ends where the text says `<eos>`; documents are packed
one after the other and cut into windows, so no position is spent on padding. Every window is read from `<bos>` on:
that is what a prompt begins with, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from deploykit.errors import TrainError
from deploykit.progress import Progress, silent

Ids = npt.NDArray[np.uint32]

_BLOCK = 1 << 16  # characters encoded at once: bounds the memory of the tokenizer's own records
_BLOCKS = 32


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The text of a data folder."""

    train: str
    val: str


@dataclass(frozen=True)
class Batch:
    """Windows of B rows: `labels[b, s]` is the token that follows `input_ids[b, :s + 1]`."""

    input_ids: torch.Tensor
    labels: torch.Tensor


def read_texts(folder: Path) -> Texts:
    """Return the text of `train.txt` and `val.txt`.

    Raises:
        TrainError: a file is missing, empty, or not UTF-8.
    """
    if not folder.is_dir():
        raise TrainError(f"{folder}: no such folder; --data names a folder with train.txt and val.txt")
    return Texts(train=_read(folder / "train.txt"), val=_read(folder / "val.txt"))


def _read(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise TrainError(f"{file}: no such file; a data folder holds train.txt and val.txt") from None
    except OSError as error:
        raise TrainError(f"{file}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainError(
            f"{file}: not UTF-8 at byte {error.start} (0x{error.object[error.start]:02x}, {error.reason}); "
            "convert the file with iconv"
        ) from None
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise TrainError(f"{file}: holds no text; put in it what the model should learn to write")
    return text


def blocks(text: str) -> Iterator[str]:
    """Yield `text` in pieces of some 64 KB that end with a line wherever one ends in the second half of the piece."""
    start = 0
    while start < len(text):
        end = min(start + _BLOCK, len(text))
        if end < len(text):
            end = text.rfind("\n", start + _BLOCK // 2, end) + 1 or end
        yield text[start:end]
        start = end


def encode(text: str, tokenizer: Tokenizer, *, progress: Progress = silent, what: str = "encode") -> Ids:
    """Return the token ids [N] of `text`, `<eos>` where it stands in the text, no `<bos>`."""
    pieces = list(blocks(text))
    ids: list[Ids] = []
    for first in range(0, len(pieces), _BLOCKS):
        encodings = tokenizer.encode_batch_fast(pieces[first : first + _BLOCKS], add_special_tokens=False)
        ids.extend(np.array(encoding.ids, dtype=np.uint32) for encoding in encodings)
        progress(what, min(first + _BLOCKS, len(pieces)), len(pieces))
    return np.concatenate(ids)


def check_length(ids: Ids, file: Path, *, rows: int, length: int) -> None:
    """Check that `rows` windows can be cut from `ids`.

    Raises:
        TrainError: they can't.
    """
    if len(ids) < rows * length:
        raise TrainError(
            f"{file}: {len(ids)} tokens, but {rows} × {length} are needed for one batch; "
            "give more text, or lower --batch-size or --sequence-length"
        )


def shuffled(ids: Ids, *, bos: int, rows: int, length: int, generator: np.random.Generator) -> Iterator[Batch]:
    """Yield batches [rows, length] without end: epoch after epoch, each cut at another offset and shuffled."""
    while True:
        spare = len(ids) - len(ids) // length * length
        offset = int(generator.integers(spare + 1))
        starts = generator.permutation(np.arange(offset, len(ids) - length + 1, length))
        for first in range(0, len(starts) - rows + 1, rows):
            yield _batch(ids, starts[first : first + rows], bos=bos, length=length)


def in_order(ids: Ids, *, bos: int, rows: int, length: int) -> Iterator[Batch]:
    """Yield each window of `ids` once, in batches of at most `rows`; a rest shorter than a window is left out."""
    starts = np.arange(0, len(ids) - length + 1, length)
    for first in range(0, len(starts), rows):
        yield _batch(ids, starts[first : first + rows], bos=bos, length=length)


def _batch(ids: Ids, starts: npt.NDArray[np.int64], *, bos: int, length: int) -> Batch:
    labels = ids[starts[:, None] + np.arange(length)].astype(np.int64)
    inputs = np.concatenate([np.full((len(starts), 1), bos), labels[:, :-1]], axis=1)
    return Batch(torch.from_numpy(inputs), torch.from_numpy(labels))
