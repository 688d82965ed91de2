"""The ways callers run a decoder graph, each held to a reference's logits.

A reference is a function from token ids [S] to logits [S, V].
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.spec import DecoderSpec
from deploykit.validate.cases import Rows, cases_for
from deploykit.validate.decoder import Decoder

IDS = np.array([5, 300, 17, 44, 45, 120, 9, 260, 33, 34, 35, 36, 70, 71, 199, 8, 7, 250, 61, 62], np.int64)
LENGTHS = (14, 9, 1)
"""Ragged rows: each a beginning of IDS."""


def assert_close(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert found.shape == wanted.shape
    gap = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    assert gap <= 1e-5, f"{gap:.2e} off"


def ones(*shape: int) -> NDArray[np.int64]:
    return np.ones(shape, np.int64)


def prefill(run: Decoder, reference: Any) -> None:
    assert_close(run.run(IDS[None], ones(1, IDS.size))[0][0], reference(IDS))


def token_by_token(run: Decoder, reference: Any) -> None:
    wanted, cache = reference(IDS), None
    for place in range(IDS.size):
        logits, cache = run.run(IDS[None, place : place + 1], ones(1, place + 1), cache)
        assert_close(logits[0, 0], wanted[place])


def chunks(run: Decoder, reference: Any) -> None:
    """Past 0, 1 and 7, several new tokens each, one row."""
    wanted, cache = reference(IDS), None
    for start, end in ((0, 1), (1, 7), (7, 20)):
        logits, cache = run.run(IDS[None, start:end], ones(1, end), cache)
        assert_close(logits[0], wanted[start:end])


def left_padded(run: Decoder, reference: Any) -> None:
    wanted, width = reference(IDS), max(LENGTHS)
    ids = np.stack([np.r_[ones(width - n), IDS[:n]] for n in LENGTHS])
    mask = np.stack([np.r_[0 * ones(width - n), ones(n)] for n in LENGTHS])
    logits, cache = run.run(ids, mask)
    for row, n in enumerate(LENGTHS):
        assert_close(logits[row, width - n :], wanted[:n])
    for step in range(4):
        mask = np.c_[mask, ones(len(LENGTHS))]
        logits, cache = run.run(np.array([[IDS[n + step]] for n in LENGTHS]), mask, cache)
        for row, n in enumerate(LENGTHS):
            assert_close(logits[row, 0], wanted[n + step])


def right_padded_in_place(run: Decoder, reference: Any) -> None:
    """A ragged prefill and ragged steps, past and present one buffer that is longer than either."""
    wanted, lengths = reference(IDS), np.array(LENGTHS)
    cache = run.empty_cache(len(LENGTHS), 32)
    ids = np.stack([np.r_[IDS[:n], ones(max(LENGTHS) - n)] for n in LENGTHS])
    logits = run.run_in_place(ids, (np.arange(max(LENGTHS)) < lengths[:, None]).astype(np.int64), cache)
    for row, n in enumerate(LENGTHS):
        assert_close(logits[row, :n], wanted[:n])
    for _ in range(4):
        ids, lengths = IDS[lengths][:, None], lengths + 1
        logits = run.run_in_place(ids, (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64), cache)
        for row, n in enumerate(lengths):
            assert_close(logits[row, 0], wanted[n - 1])


def chunks_in_place(run: Decoder, reference: Any) -> None:
    wanted, cache = reference(IDS), run.empty_cache(1, 24)
    for start, end in ((0, 6), (6, 7), (7, 18), (18, 20)):
        assert_close(run.run_in_place(IDS[None, start:end], ones(1, end), cache)[0], wanted[start:end])


def holes(run: Decoder, reference: Any) -> None:
    """Steps after a right-padded prefill whose padding stays masked between the prompt and the answer."""
    cache = run.empty_cache(1, 24)
    run.run_in_place(np.r_[IDS[:5], ones(3)][None], np.r_[ones(5), 0 * ones(3)][None], cache)
    mask = np.r_[ones(5), 0 * ones(3), ones(1)][None]
    assert_close(run.run_in_place(IDS[None, 5:6], mask, cache)[0, 0], reference(IDS)[5])


def same_on_the_right(one: Path, other: Path, spec: DecoderSpec) -> None:
    """Every way of rows padded on the right, the same bits from two graph files."""
    decoders = [Decoder(file, replace(spec, padding="right")) for file in (one, other)]
    numbers = np.random.default_rng(0)
    long, *ragged = (numbers.integers(0, spec.vocab_size, length) for length in (40, 14, 9, 7))
    for name, case in cases_for(decoders[0].spec).items():
        seen = [list(case(decoder, Rows(long=long, ragged=tuple(ragged)))) for decoder in decoders]
        for mine, theirs in zip(*seen, strict=True):
            np.testing.assert_array_equal(mine.logits, theirs.logits, err_msg=name)


EVERYWHERE = (prefill, token_by_token, chunks, left_padded)
IN_PLACE = (right_padded_in_place, chunks_in_place, holes)
