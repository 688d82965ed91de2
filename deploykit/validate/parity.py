"""A graph's logits against a reference's, teacher-forced: every case, every position."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit import graph
from deploykit.errors import ParityError
from deploykit.progress import Progress, silent
from deploykit.spec import LOGITS, DecoderSpec, Precision
from deploykit.validate.cases import FULL, STEPWISE, Case, Rows, Seen, cases_for
from deploykit.validate.decoder import Decoder, FloatArray

Reference = Callable[..., FloatArray]
"""Logits [S, V] of one unpadded row of token ids [S], without a cache; an encoder-decoder's is asked with the row's
source, token ids as well, as its second argument."""
OpenReference = Callable[[], Reference]
"""Loads a reference. Nobody else should hold it: it is let go of once it has been asked, before any graph is loaded."""

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
    output: str = LOGITS
    """What is compared, for errors."""
    remedy: str = "try a larger --atol if the difference is harmless"
    """What to do where more is off, for errors."""


HALF_ATOL: Final = 5e-2
"""Tolerance of a model in half precision beside fp32, in place of `atol`: its 11 bits round a value by up to 5e-4, and
some tens of such errors add up on the way through the layers (0.003 to 0.021 of the logits' size measured at worst on
random GPT-2, Llama and Qwen2; what it costs in text is measured besides)."""
STEPS_RATIO: Final = 2.0
"""Most that a quantized model's cached steps may be further from fp32 than its prefill is, root mean squares compared.

Its kernels round activations to 8 bits. A value that the kernel for one row leaves a rounding error (1e-7) away from
the one for many rows now and then rounds to the next step, and that spreads: steps and prefill then are two
approximations of fp32, equally good (ratios of 0.9 to 1.4 measured on GPT-2, Llama and Qwen2). A cache that is wrong
isn't.
"""


def reference_logits(rows: Rows, reference: Reference) -> list[FloatArray]:
    """Return the reference's logits of each row, [S, V]."""
    if rows.sources:
        return [np.asarray(reference(row, source)) for row, source in zip(rows.all(), rows.sources, strict=True)]
    return [np.asarray(reference(row)) for row in rows.all()]


def check_parity(
    decoder: Decoder, rows: Rows, known: Sequence[FloatArray] | None, atol: float, *, progress: Progress = silent
) -> dict[str, Any]:
    """Return the figures of every case that fp32 passed.

    Args:
        decoder: the fp32 graph.
        rows: what is run.
        known: the reference's logits of each row. Without them the decoder's own prefill of each row alone is the
            truth, so only its ways of caching and padding are checked.
        atol: the tolerance, see `tolerance`.
        progress: told which case runs.

    Raises:
        ParityError: naming the output, the case, the figures and the limit.
    """
    cases = cases_for(decoder.spec)
    logits = own_logits(decoder, rows) if known is None else known
    name = "onnx, each row alone" if known is None else "pytorch"
    _check_truth(decoder, name, logits, rows)
    truth = Truth(name=name, logits=logits, allowed=tolerance(logits, atol), remedy=_remedy(decoder.spec))
    if known is None:
        del cases[FULL]
    figures = _run("compare with the reference", cases, decoder, rows, truth, progress)
    return {"reference": "none" if known is None else name, "atol": atol, "allowed": truth.allowed, "cases": figures}


def check_half(
    precision: Precision,
    decoder: Decoder,
    rows: Rows,
    exact: Sequence[FloatArray],
    atol: float,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the figures of every case of a half precision graph, beside fp32's logits of each row.

    Raises:
        ParityError: a logit is further off than half precision explains.
    """
    limit = max(atol, HALF_ATOL)
    output = f"{LOGITS} of the {precision} model"
    allowed, remedy = tolerance(exact, limit), _remedy(decoder.spec)
    truth = Truth(name="fp32", logits=exact, allowed=allowed, remedy=remedy, output=output)
    figures = _run(f"compare {precision}", cases_for(decoder.spec), decoder, rows, truth, progress)
    return {"reference": "fp32", "atol": limit, "allowed": truth.allowed, "cases": figures}


def check_steps(
    precision: Precision,
    decoder: Decoder,
    rows: Rows,
    exact: Sequence[FloatArray],
    atol: float,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the figures of a quantized graph's cached steps: a cache must not make it worse than its own prefill.

    Args:
        precision: the graph's.
        decoder: the graph.
        rows: of which the ragged ones are run.
        exact: fp32's logits of each row, [S, V].
        atol: what may be added to the prefill's error, see `tolerance`.
        progress: told which case runs.

    Raises:
        ParityError: the steps are further from fp32 than `STEPS_RATIO` allows, NaN or Inf.
    """
    own = own_logits(decoder, rows, range(1, 1 + len(rows.ragged)))
    prefill = _rms([part - wanted for part, wanted in zip(own, exact[1:], strict=True)])
    allowed = STEPS_RATIO * prefill + tolerance(exact[1:], atol)
    cases = {name: case for name, case in cases_for(decoder.spec).items() if name in STEPWISE}
    figures = {}
    for number, (name, case) in enumerate(cases.items()):
        progress(f"compare {precision}", number, len(cases), name)
        seen = list(_running(name, case(decoder, rows), _remedy(decoder.spec)))
        error = _rms([part.logits - exact[part.row][part.start : part.start + len(part.logits)] for part in seen])
        # Written so that NaN fails.
        if not error <= allowed:
            raise ParityError(
                f"{LOGITS} of the {precision} model: root mean square of onnx - fp32 = {error:.3g} > {allowed:.3g} in "
                f"case {name!r}, but {prefill:.3g} without a cache; "
                f"{_remedy(decoder.spec) if np.isfinite(error) else damaged_weights(decoder)}"
            )
        figures[name] = {"rms_error": float(f"{error:.3g}"), "positions": sum(len(part.logits) for part in seen)}
    progress(f"compare {precision}", len(cases), len(cases))
    return {"reference": "fp32", "prefill_rms_error": float(f"{prefill:.3g}"), "allowed": allowed, "cases": figures}


def own_logits(decoder: Decoder, rows: Rows, chosen: Iterable[int] | None = None) -> list[FloatArray]:
    """Return a graph's logits of each row (of the chosen ones, 0 the long one), run alone and at once, [S, V]."""
    every = rows.all()
    return [
        rows.read(decoder, [number]).run(every[number][None], np.ones((1, len(every[number])), np.int64))[0][0]
        for number in (range(len(every)) if chosen is None else chosen)
    ]


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
    for part in _running(case, seen, truth.remedy):
        wanted = truth.logits[part.row][part.start : part.start + len(part.logits)]
        errors = np.abs(part.logits - wanted).max(axis=-1)
        where = int(errors.argmax())
        gap = float(errors[where])
        # Written so that NaN fails.
        if not gap <= truth.allowed:
            raise ParityError(
                f"{truth.output}: max |onnx - {truth.name}| = {gap:.3g} > {truth.allowed:.3g} in case {case!r} (row "
                f"{part.row}, token {part.start + where}); {truth.remedy if np.isfinite(gap) else damage()}"
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
    # An encoder-decoder is never traced.
    remedy = "get the checkpoint again" if decoder.spec.encoder else _TRACED
    return f"no weight holds any, so they come from an overflow in fp32 or from the graph: {remedy}"


def tolerance(logits: Sequence[FloatArray], atol: float) -> float:
    """Return the largest |difference| allowed: `atol`, times the root mean square of the logits where that exceeds 1.

    Rounding errors of a product grow with its terms, hence with the size of the logits.
    """
    return atol * max(1.0, _rms(logits))


def _rms(parts: Sequence[FloatArray]) -> float:
    total = sum(float(np.square(part, dtype=np.float64).sum()) for part in parts)
    return math.sqrt(total / sum(part.size for part in parts))


def _run(
    what: str, cases: Mapping[str, Case], decoder: Decoder, rows: Rows, truth: Truth, progress: Progress
) -> dict[str, Any]:
    """Return the figures of each case."""
    figures = {}
    for number, (name, case) in enumerate(cases.items()):
        progress(what, number, len(cases), name)
        figures[name] = compare(name, case(decoder, rows), truth, damage=lambda: damaged_weights(decoder))
    progress(what, len(cases), len(cases))
    return figures


def _check_truth(decoder: Decoder, name: str, logits: Sequence[FloatArray], rows: Rows) -> None:
    for number, (part, row) in enumerate(zip(logits, rows.all(), strict=True)):
        if part.shape != (len(row), decoder.spec.vocab_size):
            raise ParityError(
                f"{LOGITS}: the reference's are {list(part.shape)} for {len(row)} tokens, the graph's vocabulary has "
                f"{decoder.spec.vocab_size}; compare with the checkpoint the artifact was made from"
            )
        if not np.isfinite(part).all():
            raise ParityError(
                f"{LOGITS}: {name} gives NaN or Inf in case {FULL!r} (row {number}); {damaged_weights(decoder)}"
            )


def _running(case: str, seen: Iterable[Seen], remedy: str) -> Iterator[Seen]:
    """Yield from a case, naming it where ONNX Runtime refuses to run it."""
    try:
        yield from seen
    except Exception as error:  # pybind exceptions of ONNX Runtime share no base class
        raise ParityError(f"{LOGITS}: ONNX Runtime fails in case {case!r}: {error}; {remedy}") from error


def _decided(wanted: FloatArray, allowed: float) -> NDArray[np.bool_]:
    """Return at which positions the truth's best token leads the second by more than `DECIDED` tolerances."""
    if wanted.shape[-1] < 2:
        return np.ones(len(wanted), np.bool_)
    best = np.partition(wanted, -2, axis=-1)[:, -2:]
    return np.asarray(best[:, 1] - best[:, 0] > DECIDED * allowed)


def _remedy(spec: DecoderSpec) -> str:
    if spec.encoder:
        return "compare with the checkpoint it was made from, or try a larger --atol if the difference is harmless"
    return f"{_TRACED} if the graph is fused, or a larger --atol if the difference is harmless"


_TRACED: Final = "try convert --method traced"
