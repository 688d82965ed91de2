"""What quantization costs in text: perplexity, KL divergence and agreement with fp32, window by window."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.config import ValidateConfig
from deploykit.errors import ParityError
from deploykit.progress import Progress, silent
from deploykit.spec import LOGITS, Precision
from deploykit.validate.decoder import Decoder, FloatArray, IntArray

WINDOW: Final = 512
"""Most tokens run at once."""
WINDOW_LOGITS: Final = 1 << 24
"""Most logits of a window: 64 MiB, of which two models' are held; a large vocabulary makes windows shorter."""
TRAINED: Final = 0.25
"""Share of the vocabulary's size below which perplexity shows that the model knows something.

Untrained weights give the vocabulary's size (a uniform guess) or, the more their logits vary, far more. How often each
token occurs, the first thing training teaches, brings it to about a third for a vocabulary of 2048 (0.31 measured on
this prose after 81 steps) and lower for larger ones: below a quarter a model has learnt more than that.
"""
_CHUNK: Final = 1 << 20
"""Logits worked on at once: 4 MiB an array."""
_LARGEST_LOSS: Final = 700.0
"""Nats a token beyond which e^x leaves double precision."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A model beside fp32 on the same text."""

    perplexity: float
    perplexity_fp32: float
    kl: float
    """Mean KL(fp32 || model), in nats a token."""
    top1_agreement: float
    tokens: int

    @property
    def perplexity_loss(self) -> float:
        """Relative growth of perplexity."""
        return self.perplexity / self.perplexity_fp32 - 1

    def trained(self, vocab_size: int) -> bool:
        """Return whether the fp32 model has learnt this kind of text."""
        return self.perplexity_fp32 < TRAINED * vocab_size


@dataclass(frozen=True, kw_only=True)
class Text:
    """Token ids to measure on."""

    name: str
    ids: IntArray
    prefix: tuple[int, ...] = ()
    """What the tokenizer puts before every text, such as <s>."""
    natural: bool = True
    """False for random ids: no model has learnt those."""


def check_quality(
    precision: Precision,
    fp32: Decoder,
    other: Decoder,
    text: Text,
    config: ValidateConfig,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the figures of a quantized model; limits apply only to a trained one.

    Raises:
        ParityError: a trained model lost more than `config` allows, or the quantized one gives NaN or Inf.
    """
    quality = measure(precision, fp32, other, text, progress=progress)
    trained = text.natural and quality.trained(fp32.spec.vocab_size)
    if trained:
        for name, value, limit, option in (
            ("mean KL divergence from fp32", quality.kl, config.max_kl, "--max-kl"),
            ("growth of perplexity", quality.perplexity_loss, config.max_perplexity_loss, "--max-perplexity-loss"),
        ):
            # Written so that NaN fails.
            if not value <= limit:
                raise ParityError(
                    f"{LOGITS} of the {precision} model: {name} = {value:.3g} > {limit:.3g} in case 'text' "
                    f"({quality.tokens} tokens of {text.name}, perplexity {quality.perplexity_fp32:.4g} -> "
                    f"{quality.perplexity:.4g}); use more bits, a smaller --block-size, or allow more with {option}"
                )
    return {
        "perplexity": _short(quality.perplexity),
        "perplexity_fp32": _short(quality.perplexity_fp32),
        "perplexity_loss": _short(quality.perplexity_loss),
        "kl": _short(quality.kl),
        "top1_agreement": _short(quality.top1_agreement),
        "tokens": quality.tokens,
        "trained": trained,
        "text": text.name,
    }


def measure(precision: Precision, fp32: Decoder, other: Decoder, text: Text, *, progress: Progress = silent) -> Quality:
    """Return both models' figures on the text.

    Raises:
        ParityError: a model gives NaN or Inf.
    """
    sums, count = np.zeros(4), 0
    what = f"measure {precision}"
    for done, ids in windows(text, fp32.spec.max_context, fp32.spec.vocab_size):
        progress(what, done, len(text.ids))
        targets = ids[1:]
        mask = np.ones((1, len(ids)), np.int64)
        pair = [decoder.run(ids[None], mask)[0][0, :-1] for decoder in (fp32, other)]
        for name, logits in zip(("fp32", precision), pair, strict=True):
            if not np.isfinite(logits).all():
                raise ParityError(
                    f"{LOGITS} of the {name} model: NaN or Inf in case 'text' ({text.name}); export with another "
                    "--quantize"
                )
        sums += _sums(pair[0], pair[1], targets)
        count += len(targets)
    progress(what, len(text.ids), len(text.ids))
    loss_fp32, loss, kl, agreed = sums / count
    return Quality(
        perplexity=_perplexity(loss),
        perplexity_fp32=_perplexity(loss_fp32),
        # Equal distributions may come out below zero by a rounding error.
        kl=max(0.0, float(kl)),
        top1_agreement=float(agreed),
        tokens=count,
    )


def windows(text: Text, max_context: int, vocab_size: int) -> Iterator[tuple[int, IntArray]]:
    """Yield pieces of the text that fit the model and the memory, and how many tokens of it came before each.

    The prefix stands before every piece. A piece of one token without a prefix predicts nothing and is left out.
    """
    length = max(2, min(WINDOW, max_context, WINDOW_LOGITS // vocab_size))
    prefix = np.array(text.prefix[: length - 1], np.int64)
    step = length - len(prefix)
    for start in range(0, len(text.ids), step):
        ids = np.concatenate([prefix, text.ids[start : start + step]])
        if len(ids) > 1:
            yield start, ids


def _sums(fp32: FloatArray, other: FloatArray, targets: IntArray) -> NDArray[np.float64]:
    """Return, summed over positions: loss of fp32, loss of the other, KL divergence, equal best tokens."""
    sums = np.zeros(4)
    for rows in _chunks(len(targets), fp32.shape[-1]):
        p, q, wanted = fp32[rows], other[rows], targets[rows, None]
        weights, norms = _exponentials(p)
        _, other_norms = _exponentials(q)
        # KL = E_p[p - q] minus the difference of the norms. Near logits differ by little, so that single precision
        # is enough for each term, and only the sums need more.
        shift = np.einsum("nv,nv->n", weights, p - q, dtype=np.float64) / weights.sum(axis=-1, dtype=np.float64)
        sums += [
            (norms - np.take_along_axis(p, wanted, axis=-1)[:, 0]).sum(),
            (other_norms - np.take_along_axis(q, wanted, axis=-1)[:, 0]).sum(),
            (shift - (norms - other_norms)).sum(),
            (p.argmax(axis=-1) == q.argmax(axis=-1)).sum(),
        ]
    return sums


def _chunks(rows: int, width: int) -> Iterable[slice]:
    step = max(1, _CHUNK // width)
    return (slice(start, min(rows, start + step)) for start in range(0, rows, step))


def _exponentials(logits: FloatArray) -> tuple[FloatArray, NDArray[np.float64]]:
    """Return e^(logits - their largest), and log(sum(e^logits)) of each row."""
    largest = logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits - largest)
    return weights, np.log(weights.sum(axis=-1, dtype=np.float64)) + largest[:, 0]


def _perplexity(loss: float) -> float:
    return float(np.exp(min(float(loss), _LARGEST_LOSS)))


def _short(value: float) -> float:
    return float(f"{value:.5g}")
