"""Calibration text, and the Hessians of what goes into a graph's products on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from deploykit.artifact import Artifact
from deploykit.errors import ArtifactError, ConfigError
from deploykit.progress import Progress
from deploykit.quantize.blocks import FloatArray
from deploykit.quantize.gptq import Factor, factorize
from deploykit.quantize.products import Product
from deploykit.quantize.replay import IntArray, Replay
from deploykit.spec import DecoderSpec

TOKENS: Final = 16384
"""Tokens of calibration text: on the demo's model half as many cost 4 % more divergence, twice as many 8 % less."""
FEWEST: Final = 256
"""Tokens below which a text says less of a model's values than rounding to nearest gets wrong."""
WINDOW: Final = 512
"""Most tokens run at once."""
_BUDGET: Final = 512 << 20
"""Bytes of Hessians gathered in one pass over the text; at least one product's, whatever its size."""
_SLAB: Final = 1024
"""Columns of a Hessian added to at once, so that a sum needs no second matrix."""
_SEED: Final = 21


@dataclass(frozen=True, kw_only=True)
class CalibrationText:
    """Token ids to calibrate on, in windows that fit the model."""

    name: str
    windows: tuple[IntArray, ...]

    @property
    def tokens(self) -> int:
        """How many there are, with what the tokenizer puts before each window."""
        return sum(map(len, self.windows))


def read_calibration(artifact: Artifact, file: Path | None) -> CalibrationText:
    """Return the last tokens of a text; random ones where there is no tokenizer.

    The last ones, since quality is measured on a text's first: where both take the same one, they don't meet.

    Raises:
        ArtifactError: the tokenizer can't be read, or gives ids the model doesn't have.
        ConfigError: the text can't be read, or is too short.
    """
    # Loads the tokenizers, which nothing else here needs.
    from deploykit.text import CHARACTERS, load_tokenizer, prefix, read_end

    spec = artifact.manifest.decoder
    if artifact.tokenizer is None:
        ids = np.random.default_rng(_SEED).integers(0, spec.vocab_size, TOKENS)
        return CalibrationText(name="random tokens", windows=_windows(ids, (), spec))
    tokenizer = load_tokenizer(artifact.tokenizer)
    name, content = read_end(file, CHARACTERS * TOKENS, option="--calibration")
    ids = np.array(tokenizer.encode(content, add_special_tokens=False).ids[-TOKENS:], np.int64)
    if len(ids) < FEWEST:
        raise ConfigError(
            f"text {name}: {len(ids)} tokens, but at least {FEWEST} are needed to calibrate on; give a longer "
            "--calibration"
        )
    if ids.max() >= spec.vocab_size:
        raise ArtifactError(
            f"{artifact.tokenizer}: gives token {ids.max()}, but the model has only {spec.vocab_size}; the tokenizer "
            "belongs to another model"
        )
    return CalibrationText(name=f"end of {name}", windows=_windows(ids, prefix(tokenizer, spec.vocab_size), spec))


def _windows(ids: IntArray, before: tuple[int, ...], spec: DecoderSpec) -> tuple[IntArray, ...]:
    length = max(1, min(WINDOW, spec.max_context) - len(before))
    starts = range(0, len(ids), length)
    return tuple(np.concatenate([np.array(before, np.int64), ids[at : at + length]]) for at in starts)


class Hessians:
    """X'X of the inputs X of a graph's products, gathered when they are asked for, in groups that fit the memory."""

    def __init__(
        self, artifact: Artifact, products: Sequence[Product], text: CalibrationText, *, progress: Progress
    ) -> None:
        """Prepare the graph; `products` may belong to another copy of it, and may be replaced there afterwards.

        Raises:
            ArtifactError: ONNX Runtime can't load it.
        """
        # Products of one input share its Hessian. Of a weight that several products use, the first counts.
        self._inputs = {str(p.weight.name): _input(p) for p in reversed(products)}
        self._sizes = {_input(p): p.columns for p in products}
        self._text = text
        self._progress = progress
        self._replay = Replay(artifact, values=self._sizes)
        self._gathered: dict[str, FloatArray] = {}
        self._factor: tuple[tuple[str, int], Factor] | None = None

    def factor(self, weight: str, size: int) -> Factor:
        """Return the factor of the Hessian of what is multiplied with a weight, filled up to `size` inputs.

        Ask in the order of the graph: the Hessians of the next products are gathered together and the last are dropped.
        """
        name = self._inputs[weight]
        if self._factor is None or self._factor[0] != (name, size):
            self._factor = None
            self._factor = (name, size), factorize(self._hessian(name).copy(), size)
        return self._factor[1]

    def _hessian(self, name: str) -> FloatArray:
        if name not in self._gathered:
            self._gathered.clear()
            group = list(self._group(name))
            self._gathered = {wanted: np.zeros((self._sizes[wanted],) * 2, np.float32) for wanted in group}
            for number, ids in enumerate(self._text.windows):
                self._progress("calibrate", number, len(self._text.windows), f"{name} and {len(group) - 1} more")
                for wanted, values in self._replay.run(ids, group).items():
                    _add(self._gathered[wanted], values)
            for wanted, hessian in self._gathered.items():
                if not np.isfinite(np.einsum("kk->k", hessian)).all():
                    raise ArtifactError(
                        f"{wanted}: NaN or Inf on the calibration text ({self._text.name}); the checkpoint is damaged, "
                        "or use another --rounding"
                    )
        return self._gathered[name]

    def _group(self, first: str) -> Iterator[str]:
        """Yield the inputs from `first` on that fit the budget with their values in a window."""
        names = list(self._sizes)
        used = 0
        for name in names[names.index(first) :]:
            used += 4 * self._sizes[name] * (self._sizes[name] + WINDOW)
            if used > _BUDGET and name != first:
                return
            yield name


def _input(product: Product) -> str:
    value = product.node.inputs[0]
    assert value is not None
    return str(value.name)


def _add(hessian: FloatArray, values: FloatArray) -> None:
    """Add X'X of the values [n, K]."""
    for start in range(0, len(hessian), _SLAB):
        hessian[:, start : start + _SLAB] += values.T @ values[:, start : start + _SLAB]
