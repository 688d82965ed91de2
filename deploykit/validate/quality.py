"""What quantization costs in text, token by token: loss beside fp32's, KL divergence, agreement of the best token."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.errors import ParityError
from deploykit.progress import Progress, silent
from deploykit.spec import LOGITS, Precision
from deploykit.validate.decoder import Cache, Decoder, FloatArray, IntArray

WINDOW: Final = 512
"""Most tokens of a text that are read in one go: the deepest context that is measured."""
CHUNK: Final = 128
"""Most tokens run at once, on the cache of those before: what the engine does with a prompt, too."""
CHUNK_LOGITS: Final = 1 << 23
"""Most logits of a chunk: 32 MiB a model; a large vocabulary makes chunks shorter."""
TRAINED: Final = 0.25
"""Share of the vocabulary's size below which perplexity shows that the model knows something.

Untrained weights give the vocabulary's size (a uniform guess) or, the more their logits vary, far more. How often each
token occurs, the first thing training teaches, brings it to about a third for a vocabulary of 2048 (0.31 measured on
this prose after 81 steps) and lower for larger ones: below a quarter a model has learnt more than that.
"""
SURE: Final = 3.0
"""Perplexity of its own best answer below which a model is taken to know what it was asked: each token has a third of
all probability or more. Below `TRAINED` are the answers of any model, since each token is the best one there is."""
_PIECE: Final = 1 << 19
"""Logits worked on at once: 2 MiB an array."""
_LARGEST_LOSS: Final = 700.0
"""Nats a token beyond which e^x leaves double precision."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Token ids of one text."""

    label: str
    ids: IntArray
    scripts: tuple[str, ...] = ()
    """Script that each token is written in; empty where there is no text behind the ids."""
    source: IntArray | None = None
    """What an encoder-decoder answers with `ids`."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """What to measure on."""

    name: str
    samples: tuple[Sample, ...]
    prefix: tuple[int, ...] = ()
    """What the tokenizer puts before every text, such as <s>, or an encoder-decoder before every answer."""
    natural: bool = True
    """False for random ids: no model has learnt those."""
    own: bool = False
    """Whether the ids are what the fp32 model itself answers."""

    @property
    def ids(self) -> IntArray:
        """The tokens of all samples, one after the other."""
        return np.concatenate([sample.ids for sample in self.samples])

    def known(self, quality: "Quality", vocab_size: int) -> bool:
        """Return whether the fp32 model has learnt this kind of text, so that what it loses on it counts."""
        if self.own:
            return self.natural and quality.perplexity_fp32 < SURE
        return self.natural and quality.trained(vocab_size)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A piece of a sample as the model reads it."""

    sample: int
    start: int
    """Place in the sample of the first token that is scored."""
    first: int
    """Place in `ids` of that token; a prefix, or the one token that follows on nothing, stands before it."""
    ids: IntArray


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A model beside fp32, by token, [tokens] each."""

    loss_fp32: NDArray[np.float64]
    loss: NDArray[np.float64]
    kl: NDArray[np.float64]
    """KL(fp32 || model), in nats."""
    same: NDArray[np.float64]
    """1 where both have the same best token."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A model beside fp32 on the same text."""

    perplexity: float
    perplexity_fp32: float
    kl: float
    """Mean KL(fp32 || model), in nats a token."""
    top1_agreement: float
    tokens: int
    uncertainty: float
    """Standard error of the growth of perplexity that so few tokens leave."""

    @property
    def perplexity_loss(self) -> float:
        """Relative growth of perplexity."""
        return self.perplexity / self.perplexity_fp32 - 1

    def trained(self, vocab_size: int) -> bool:
        """Return whether the fp32 model has learnt this kind of text."""
        return self.perplexity_fp32 < TRAINED * vocab_size

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a report holds them."""
        return {
            "perplexity": _short(self.perplexity),
            "perplexity_fp32": _short(self.perplexity_fp32),
            "perplexity_loss": _short(self.perplexity_loss),
            "kl": _short(self.kl),
            "top1_agreement": _short(self.top1_agreement),
            "tokens": self.tokens,
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was seen of some models on the same text."""

    windows: tuple[Window, ...]
    scores: Mapping[Precision, Scores]
    caches: Mapping[Precision, NDArray[np.float64]]
    """Relative error of each tensor of the cache, in its order: root mean square of the difference over fp32's."""


def measure(fp32: Decoder, others: Mapping[Precision, Decoder], text: Text, *, progress: Progress = silent) -> Measured:
    """Return every model's scores on the text; fp32 runs once, however many are compared with it.

    Raises:
        ParityError: a model gives NaN or Inf.
    """
    decoders: dict[Precision, Decoder] = {"fp32": fp32, **others}
    parts: list[NDArray[np.float64]] = []
    errors = np.zeros((len(others), len(list(fp32.spec.past()))))
    sizes = np.zeros(errors.shape[1])
    pieces = list(windows(text, fp32.spec.max_context))
    total, done = sum(len(window.ids) for window in pieces), 0
    for window in pieces:
        progress("measure quality", done, total, text.samples[window.sample].label)
        source = text.samples[window.sample].source
        reading = {name: one if source is None else one.read([source]) for name, one in decoders.items()}
        scored, caches = _run(reading, window, text.name)
        parts.append(scored)
        for number, exact in enumerate(caches["fp32"]):
            sizes[number] += _square(exact)
            errors[:, number] += [_square(caches[name][number] - exact) for name in others]
        done += len(window.ids)
    progress("measure quality", total, total)
    scores = np.concatenate(parts, axis=-1)
    relative = np.sqrt(errors / np.maximum(sizes, np.finfo(np.float64).tiny))
    return Measured(
        windows=tuple(pieces),
        scores={
            name: Scores(loss_fp32=row[0], loss=row[1], kl=row[2], same=row[3])
            for name, row in zip(others, scores, strict=True)
        },
        caches=dict(zip(others, relative, strict=True)),
    )


def windows(text: Text, max_context: int) -> Iterator[Window]:
    """Yield the text in pieces that fit the model, the prefix before each.

    A piece of one token without a prefix predicts nothing and is left out. Of an answer to a source only the first
    piece is read: the others would lack what they go on from.
    """
    length = max(2, min(WINDOW, max_context))
    prefix = np.array(text.prefix[: length - 1], np.int64)
    first = max(1, len(prefix))
    for number, sample in enumerate(text.samples):
        whole = len(sample.ids) if sample.source is None else 1
        for start in range(0, whole, length - len(prefix)):
            ids = np.concatenate([prefix, sample.ids[start : start + length - len(prefix)]])
            if len(ids) > first:
                yield Window(sample=number, start=start + first - len(prefix), first=first, ids=ids)


def summary(scores: Scores, among: NDArray[np.bool_] | None = None) -> Quality:
    """Return the figures of the tokens `among` (all of them where None)."""
    chosen = slice(None) if among is None else among
    loss_fp32, loss, kl, same = (part[chosen] for part in (scores.loss_fp32, scores.loss, scores.kl, scores.same))
    spread = float(np.std(loss - loss_fp32)) / max(1, len(loss)) ** 0.5
    return Quality(
        perplexity=_perplexity(loss.mean()),
        perplexity_fp32=_perplexity(loss_fp32.mean()),
        # Equal distributions may come out below zero by a rounding error.
        kl=max(0.0, float(kl.mean())),
        top1_agreement=float(same.mean()),
        tokens=len(loss),
        uncertainty=spread,
    )


def _run(
    decoders: Mapping[Precision, Decoder], window: Window, name: str
) -> tuple[NDArray[np.float64], dict[Precision, Cache]]:
    """Return the scores of a window, [models beside fp32, 4, tokens], and every model's cache after it."""
    ids, last = window.ids, len(window.ids) - 1
    vocabulary = decoders["fp32"].spec.vocab_size
    step = max(1, min(CHUNK, CHUNK_LOGITS // vocabulary))
    caches = {
        # In place where the graph can: a cache that is returned anew each time would take its memory twice.
        precision: decoder.empty_cache(1, len(ids) if decoder.spec.cache == "shared" else 0)
        for precision, decoder in decoders.items()
    }
    parts = []
    for start in range(0, len(ids), step):
        end = min(len(ids), start + step)
        logits = []
        for precision, decoder in decoders.items():
            found, caches[precision] = _advance(decoder, ids, start, end, caches[precision])
            if not np.isfinite(found).all():
                raise ParityError(
                    f"{LOGITS} of the {precision} model: NaN or Inf in case 'text' ({name}); export with another "
                    "--quantize"
                )
            # Row r of the window foretells token r + 1; those before the first one scored count for nothing.
            logits.append(found[max(0, window.first - 1 - start) : last - start])
        targets = ids[max(start + 1, window.first) : end + 1]
        parts.append(_scores(logits, targets))
    return np.concatenate(parts, axis=-1), caches


def _advance(decoder: Decoder, ids: IntArray, start: int, end: int, cache: Cache) -> tuple[FloatArray, Cache]:
    mask = np.ones((1, end), np.int64)
    if decoder.spec.cache == "shared":
        return decoder.run_in_place(ids[None, start:end], mask, cache)[0], cache
    logits, cache = decoder.run(ids[None, start:end], mask, cache)
    return logits[0], cache


def _scores(logits: Sequence[FloatArray], targets: IntArray) -> NDArray[np.float64]:
    """Return loss of fp32, loss, KL divergence, equal best tokens of each model beside the first, [models, 4, S]."""
    rows = max(1, _PIECE // logits[0].shape[-1])
    pieces = [slice(start, start + rows) for start in range(0, len(targets), rows)]
    found = [_compare([part[piece] for part in logits], targets[piece]) for piece in pieces]
    return np.concatenate([np.zeros((len(logits) - 1, 4, 0)), *found], axis=-1)


def _compare(logits: Sequence[FloatArray], targets: IntArray) -> NDArray[np.float64]:
    """Return what `_scores` does, for few rows."""
    exact, *others = logits
    at = np.arange(len(targets))
    weights, norms = _exponentials(exact)
    total, best, loss = weights.sum(axis=-1, dtype=np.float64), exact.argmax(axis=-1), norms - exact[at, targets]
    rows = []
    for other in others:
        _, other_norms = _exponentials(other)
        # KL = E_p[p - q] minus the difference of the norms. Near logits differ by little, so that single precision
        # is enough for each term, and only the sums need more.
        shift = np.einsum("nv,nv->n", weights, exact - other, dtype=np.float64) / total
        kl = shift - (norms - other_norms)
        rows.append([loss, other_norms - other[at, targets], kl, best == other.argmax(axis=-1)])
    return np.array(rows, np.float64).reshape(len(others), 4, len(targets))


def _exponentials(logits: FloatArray) -> tuple[FloatArray, NDArray[np.float64]]:
    """Return e^(logits - their largest), and log(sum(e^logits)) of each row."""
    largest = logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits - largest)
    return weights, np.log(weights.sum(axis=-1, dtype=np.float64)) + largest[:, 0]


def _square(array: NDArray[np.floating[Any]]) -> float:
    return float(np.square(array, dtype=np.float64).sum())


def _perplexity(loss: float) -> float:
    return float(np.exp(min(float(loss), _LARGEST_LOSS)))


def _short(value: float) -> float:
    return float(f"{value:.5g}")
