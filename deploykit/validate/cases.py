"""The ways a decoder is called, each a named case that yields logits and says which token of which row they follow."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from deploykit.spec import DecoderSpec
from deploykit.validate.decoder import Decoder, FloatArray, IntArray

LONG: Final = 128
"""Tokens of the long row: enough that a wrong rotary frequency or position shows."""
SHORT: Final = 24
"""Tokens of the longest ragged row; a cached case runs them one by one."""
STEPS: Final = 6
"""Most cached steps of a ragged batch."""

FULL: Final = "prefill"
STEPWISE: Final = ("cached steps", "cached steps, ragged, in place")
"""Cases in which tokens come one by one, as a server runs them."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Token ids of the long row, [S], and of the ragged ones, longest first, [S] each."""

    long: IntArray
    ragged: tuple[IntArray, ...]
    sources: tuple[IntArray, ...] = ()
    """Of an encoder-decoder: what each row is an answer to, the long one's first."""

    def all(self) -> list[IntArray]:
        """Return the long row and then the ragged ones."""
        return [self.long, *self.ragged]

    def read(self, decoder: Decoder, rows: Iterable[int]) -> Decoder:
        """Return the decoder for a batch of these rows (0: the long one), their sources read if it has an encoder."""
        return decoder.read([self.sources[row] for row in rows]) if decoder.spec.encoder else decoder

    def read_ragged(self, decoder: Decoder) -> Decoder:
        """Return the decoder for a batch of the ragged rows."""
        return self.read(decoder, range(1, 1 + len(self.ragged)))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Logits [n, V] that a case got for tokens `start` to `start + n` of a row (0: the long one)."""

    row: int
    start: int
    logits: FloatArray


Case = Callable[[Decoder, Rows], Iterator[Seen]]


def row_lengths(max_context: int) -> tuple[int, tuple[int, ...]]:
    """Return the length of the long row and of the ragged ones, none above the model's context."""
    short = min(SHORT, max_context)
    return min(LONG, max_context), (short, max(1, short * 2 // 3), max(1, short // 2))


def cases_for(spec: DecoderSpec) -> dict[str, Case]:
    """Return the cases that a graph of this contract must pass, by name."""
    cases = dict(_ANY)
    if spec.padding == "both":
        cases.update(_LEFT)
    if spec.cache == "shared":
        cases.update(_SHARED)
    if spec.encoder:
        cases["cached steps, states fed again"] = _unaided
    if spec.logits_to_keep:
        cases["last logits only"] = _last_logits
    return cases


def _prefill(decoder: Decoder, rows: Rows) -> Iterator[Seen]:
    logits, _ = rows.read(decoder, [0]).run(rows.long[None], np.ones((1, len(rows.long)), np.int64))
    yield Seen(row=0, start=0, logits=logits[0])


def _prefill_left_padded(decoder: Decoder, rows: Rows) -> Iterator[Seen]:
    ids, mask = _pad(rows.ragged, left=True)
    logits, _ = rows.read_ragged(decoder).run(ids, mask)
    for number, row in enumerate(rows.ragged):
        yield Seen(row=number + 1, start=0, logits=logits[number, len(ids[0]) - len(row) :])


def _prefill_right_padded(decoder: Decoder, rows: Rows) -> Iterator[Seen]:
    ids, mask = _pad(rows.ragged, left=False)
    logits, _ = decoder.run(ids, mask)
    for number, row in enumerate(rows.ragged):
        yield Seen(row=number + 1, start=0, logits=logits[number, : len(row)])


def _steps(decoder: Decoder, rows: Rows) -> Iterator[Seen]:
    past, row = None, rows.ragged[0]
    decoder = rows.read(decoder, [1])
    for at in range(len(row)):
        logits, past = decoder.run(row[None, at : at + 1], np.ones((1, at + 1), np.int64), past)
        yield Seen(row=1, start=at, logits=logits[0])


def _steps_left_padded(decoder: Decoder, rows: Rows) -> Iterator[Seen]:
    ids, mask = _pad(rows.ragged, left=True)
    width = len(ids[0])
    first = width - _common_steps(rows)
    decoder = rows.read_ragged(decoder)
    _, past = decoder.run(ids[:, :first], mask[:, :first])
    for at in range(first, width):
        logits, past = decoder.run(ids[:, at : at + 1], mask[:, : at + 1], past)
        for number, row in enumerate(rows.ragged):
            yield Seen(row=number + 1, start=at - (width - len(row)), logits=logits[number])


def _chunk(decoder: Decoder, rows: Rows) -> Iterator[Seen]:
    row = rows.long
    half = len(row) // 2
    decoder = rows.read(decoder, [0])
    if half:
        _, past = decoder.run(row[None, :half], np.ones((1, half), np.int64))
        logits, _ = decoder.run(row[None, half:], np.ones((1, len(row)), np.int64), past)
        yield Seen(row=0, start=half, logits=logits[0])


def _in_place(decoder: Decoder, rows: Rows) -> Iterator[Seen]:
    """As a server does: each row prefilled alone in its part of one buffer, then all of them step by step."""
    steps = _common_steps(rows)
    lengths = [len(row) - steps for row in rows.ragged]
    # A buffer longer than the sequence, where the context allows it: the graph must not take its length for T.
    cache = decoder.empty_cache(len(rows.ragged), min(decoder.spec.max_context, len(rows.ragged[0]) + 8))
    for number, (row, length) in enumerate(zip(rows.ragged, lengths, strict=True)):
        own = [buffer[number : number + 1] for buffer in cache]
        logits = decoder.run_in_place(row[None, :length], np.ones((1, length), np.int64), own)
        yield Seen(row=number + 1, start=0, logits=logits[0])
    for step in range(steps):
        at = np.array(lengths) + step
        mask = (np.arange(at.max() + 1)[None] <= at[:, None]).astype(np.int64)
        ids = np.array([[row[position]] for row, position in zip(rows.ragged, at, strict=True)], np.int64)
        logits = decoder.run_in_place(ids, mask, cache)
        for number, position in enumerate(at):
            yield Seen(row=number + 1, start=int(position), logits=logits[number])


def _chunk_in_place(decoder: Decoder, rows: Rows) -> Iterator[Seen]:
    row = rows.long
    half = len(row) // 2
    cache = decoder.empty_cache(1, len(row))
    for start, end in ((0, half), (half, len(row))):
        if start < end:
            logits = decoder.run_in_place(row[None, start:end], np.ones((1, end), np.int64), cache)
            yield Seen(row=0, start=start, logits=logits[0])


def _unaided(decoder: Decoder, rows: Rows) -> Iterator[Seen]:
    """As optimum does: no mask of the decoder, and the encoder's states again in every step."""
    shortest = len(rows.ragged[-1])
    ids = np.stack([row[:shortest] for row in rows.ragged])
    past, reading = None, rows.read_ragged(decoder)
    for at in range(shortest):
        logits, past = reading.run_unaided(ids[:, at : at + 1], past)
        for number in range(len(ids)):
            yield Seen(row=number + 1, start=at, logits=logits[number])


def _last_logits(decoder: Decoder, rows: Rows) -> Iterator[Seen]:
    sides = [*([True] if decoder.spec.padding == "both" else []), *([False] if decoder.spec.cache == "shared" else [])]
    for left in sides:
        logits = decoder.last_logits(*_pad(rows.ragged, left=left))
        for number, row in enumerate(rows.ragged):
            yield Seen(row=number + 1, start=len(row) - 1, logits=logits[number])


_ANY: Final[Mapping[str, Case]] = {
    FULL: _prefill,
    "cached steps": _steps,
    "chunk on a past": _chunk,
}
_LEFT: Final[Mapping[str, Case]] = {
    "prefill, ragged, left-padded": _prefill_left_padded,
    "cached steps, ragged, left-padded": _steps_left_padded,
}
_SHARED: Final[Mapping[str, Case]] = {
    "prefill, ragged, right-padded": _prefill_right_padded,
    "cached steps, ragged, in place": _in_place,
    "chunk on a past, in place": _chunk_in_place,
}


def _common_steps(rows: Rows) -> int:
    """Return how many last tokens every row can spare and still have one to begin with."""
    return min(STEPS, len(rows.ragged[-1]) - 1)


def _pad(rows: Sequence[IntArray], *, left: bool) -> tuple[IntArray, IntArray]:
    """Return the rows as one array and their mask, both [B, S]."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(ids.shape[1] - len(row), None) if left else slice(len(row))
        ids[number, place] = row
        mask[number, place] = 1
    return ids, mask
