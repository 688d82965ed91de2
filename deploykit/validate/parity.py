"""fp32 ONNX against a reference, teacher-forced: every case, every position."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit import graph
from deploykit.errors import ParityError
from deploykit.progress import Progress, silent
from deploykit.spec import LOGITS
from deploykit.validate.cases import FULL, Rows, Seen, cases_for
from deploykit.validate.decoder import Decoder, FloatArray, IntArray

Reference = Callable[[IntArray], FloatArray]
"""Logits [S, V] of one unpadded row of token ids [S], without a cache."""

DECIDED: Final = 10.0
"""Tolerances by which the truth's best token must lead for a position to count as decided."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a graph is compared with."""

    name: str
    logits: Sequence[FloatArray]
    """By row, [S, V]."""
    allowed: float
    """Largest |difference| of a logit."""


def check_parity(
    decoder: Decoder, rows: Rows, reference: Reference | None, atol: float, *, progress: Progress = silent
) -> dict[str, Any]:
    """Return the figures of every case that the decoder passed.

    Without a reference the decoder's own prefill of each row alone is the truth, so only its ways of caching and
    padding are checked.

    Raises:
        ParityError: naming the output, the case, the figures and the limit.
    """
    cases = cases_for(decoder.spec)
    progress("compare with the reference", 0, len(cases) + 1)
    truth = _truth(decoder, rows, reference, atol)
    if reference is None:
        del cases[FULL]
    figures = {}
    for number, (name, case) in enumerate(cases.items(), start=1):
        progress("compare with the reference", number, len(cases) + 1, name)
        figures[name] = compare(name, case(decoder, rows), truth, damage=lambda: damaged_weights(decoder))
    progress("compare with the reference", len(cases) + 1, len(cases) + 1)
    return {"reference": "none" if reference is None else truth.name, "atol": atol, "allowed": truth.allowed} | {
        "cases": figures
    }


def compare(
    case: str, seen: Iterable[Seen], truth: Truth, *, damage: Callable[[], str] = lambda: "its weights may be damaged"
) -> dict[str, Any]:
    """Return a case's figures.

    Args:
        case: the case's name.
        seen: what it got.
        truth: what it should have got.
        damage: explains NaN and Inf; asked only then.

    `decided` counts the positions at which the truth's best token leads by more than ten tolerances: there the other
    side's best token is the same, since no logit is off by more than one.

    Raises:
        ParityError: a logit is further off than allowed, or ONNX Runtime refuses to run the case.
    """
    worst, agreed, decided, positions = 0.0, 0, 0, 0
    for part in _running(case, seen):
        wanted = truth.logits[part.row][part.start : part.start + len(part.logits)]
        errors = np.abs(part.logits - wanted).max(axis=-1)
        where = int(errors.argmax())
        gap = float(errors[where])
        # Written so that NaN fails.
        if not gap <= truth.allowed:
            raise ParityError(
                f"{LOGITS}: max |onnx - {truth.name}| = {gap:.3g} > {truth.allowed:.3g} in case {case!r} (row "
                f"{part.row}, token {part.start + where}); {_REMEDY if np.isfinite(gap) else damage()}"
            )
        same = part.logits.argmax(axis=-1) == wanted.argmax(axis=-1)
        clear = _decided(wanted, truth.allowed)
        # Two logits that are each within the tolerance can only change places if they are within two of each other.
        assert same[clear].all(), case
        worst, positions = max(worst, gap), positions + len(same)
        agreed, decided = agreed + int(same.sum()), decided + int(clear.sum())
    return {
        "max_abs_error": float(f"{worst:.3g}"),
        "top1_agreement": round(agreed / positions, 4) if positions else 1.0,
        "positions": positions,
        "decided": decided,
    }


def damaged_weights(decoder: Decoder) -> str:
    """Return which weight of the graph holds NaN or Inf, or that none does, and what to do."""
    for name, value in graph.load(decoder.file).graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        count = int(np.count_nonzero(~np.isfinite(tensor.numpy())))
        if count:
            return f"weight {name!r} holds {count} of them: the checkpoint is damaged, get it again"
    return "no weight holds any, so they come from an overflow in fp32 or from the graph: try convert --method traced"


def tolerance(logits: Sequence[FloatArray], atol: float) -> float:
    """Return the largest |difference| allowed: `atol`, times the root mean square of the logits where that exceeds 1.

    Rounding errors of a product grow with its terms, hence with the size of the logits.
    """
    total = sum(float(np.square(part, dtype=np.float64).sum()) for part in logits)
    count = sum(part.size for part in logits)
    return atol * max(1.0, math.sqrt(total / count))


def _truth(decoder: Decoder, rows: Rows, reference: Reference | None, atol: float) -> Truth:
    name = "pytorch" if reference is not None else "onnx, each row alone"
    logits = []
    for number, row in enumerate(rows.all()):
        if reference is not None:
            part = np.asarray(reference(row))
        else:
            part = decoder.run(row[None], np.ones((1, len(row)), np.int64))[0][0]
        if part.shape != (len(row), decoder.spec.vocab_size):
            raise ParityError(
                f"{LOGITS}: the reference's are {list(part.shape)} for {len(row)} tokens, the graph's vocabulary has "
                f"{decoder.spec.vocab_size}; compare with the checkpoint the artifact was made from"
            )
        if not np.isfinite(part).all():
            raise ParityError(
                f"{LOGITS}: {name} gives NaN or Inf in case {FULL!r} (row {number}); {damaged_weights(decoder)}"
            )
        logits.append(part)
    return Truth(name=name, logits=logits, allowed=tolerance(logits, atol))


def _running(case: str, seen: Iterable[Seen]) -> Iterator[Seen]:
    """Yield from a case, naming it where ONNX Runtime refuses to run it."""
    try:
        yield from seen
    except Exception as error:  # pybind exceptions of ONNX Runtime share no base class
        raise ParityError(f"{LOGITS}: ONNX Runtime fails in case {case!r}: {error}; {_REMEDY}") from error


def _decided(wanted: FloatArray, allowed: float) -> NDArray[np.bool_]:
    """Return at which positions the truth's best token leads the second by more than `DECIDED` tolerances."""
    if wanted.shape[-1] < 2:
        return np.ones(len(wanted), np.bool_)
    best = np.partition(wanted, -2, axis=-1)[:, -2:]
    return np.asarray(best[:, 1] - best[:, 0] > DECIDED * allowed)


_REMEDY: Final = "try convert --method traced, or a larger --atol if the difference is harmless"
