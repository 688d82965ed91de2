"""What the products of a graph are fed on text: the graph run in fp32, with their inputs as further outputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from deploykit import graph as graphs
from deploykit.artifact import Artifact
from deploykit.errors import ArtifactError, ConfigError
from deploykit.progress import Progress
from deploykit.quantize.blocks import FloatArray
from deploykit.quantize.gptq import Factor, factorize
from deploykit.quantize.products import Product
from deploykit.spec import ATTENTION_MASK, INPUT_IDS, LOGITS_TO_KEEP, DecoderSpec
from deploykit.text import CHARACTERS, load_tokenizer, prefix, read_end

TOKENS: Final = 8192
"""Tokens of calibration text."""
_WINDOW: Final = 512
"""Most tokens run at once."""
_BUDGET: Final = 512 << 20
"""Bytes of Hessians gathered in one pass over the text; at least one product's, whatever its size."""
_SLAB: Final = 1024
"""Columns of a Hessian added to at once, so that a sum needs no second matrix."""
_SEED: Final = 21
_ERRORS_ONLY: Final = 3  # OrtLoggingLevel

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CalibrationText:
    """Token ids to calibrate on, in windows that fit the model."""

    name: str
    windows: tuple[IntArray, ...]

    @property
    def tokens(self) -> int:
        """How many there are."""
        return sum(map(len, self.windows))


def read_calibration(artifact: Artifact, file: Path | None) -> CalibrationText:
    """Return the last tokens of a text; random ones where there is no tokenizer.

    The last ones, since quality is measured on a text's first: where both take the same one, they don't meet.

    Raises:
        ArtifactError: the tokenizer can't be read, or gives ids the model doesn't have.
        ConfigError: the text can't be read, or is empty.
    """
    spec = artifact.manifest.decoder
    if artifact.tokenizer is None:
        ids = np.random.default_rng(_SEED).integers(0, spec.vocab_size, TOKENS)
        return CalibrationText(name="random tokens", windows=_windows(ids, (), spec))
    tokenizer = load_tokenizer(artifact.tokenizer)
    name, content = read_end(file, CHARACTERS * TOKENS, option="--calibration")
    ids = np.array(tokenizer.encode(content, add_special_tokens=False).ids[-TOKENS:], np.int64)
    if not len(ids):
        raise ConfigError(f"text {name}: holds no tokens; give a longer --calibration")
    if ids.max() >= spec.vocab_size:
        raise ArtifactError(
            f"{artifact.tokenizer}: gives token {ids.max()}, but the model has only {spec.vocab_size}; the tokenizer "
            "belongs to another model"
        )
    return CalibrationText(name=f"end of {name}", windows=_windows(ids, prefix(tokenizer, spec.vocab_size), spec))


def _windows(ids: IntArray, before: tuple[int, ...], spec: DecoderSpec) -> tuple[IntArray, ...]:
    length = max(1, min(_WINDOW, spec.max_context) - len(before))
    starts = range(0, len(ids), length)
    return tuple(np.concatenate([np.array(before, np.int64), ids[at : at + length]]) for at in starts)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How strongly a product is used."""

    squares: FloatArray
    """Mean square of each input, [K]."""
    power: float
    """Mean square of a row of its outputs, summed over the row."""


class Calibration:
    """Runs an artifact's fp32 graph on text and tells what goes into its products."""

    def __init__(
        self, artifact: Artifact, products: Sequence[Product], text: CalibrationText, *, progress: Progress
    ) -> None:
        """Prepare the graph; `products` may belong to another copy of it.

        Raises:
            ArtifactError: ONNX Runtime can't load it.
        """
        self.text = text
        self._progress = progress
        self._spec = artifact.manifest.decoder
        # Of a weight that several products use, the first counts.
        self._places = {place.weight: place for place in map(_Place.of, reversed(products))}
        self._order = list({p.input: p.columns for p in reversed(self._places.values())}.items())
        names = {name for place in self._places.values() for name in (place.input, place.output)}
        self._session = _open(artifact.graph("fp32"), names)
        self._hessians: dict[str, FloatArray] = {}
        self._factor: tuple[tuple[str, int], Factor] | None = None

    def usage(self) -> dict[str, Usage]:
        """Return how strongly each product is used, by its weight's name."""
        inputs = {place.input: np.zeros(place.columns, np.float32) for place in self._places.values()}
        outputs = dict.fromkeys((place.output for place in self._places.values()), 0.0)
        for values in self._run([*inputs, *outputs]):
            for name in inputs:
                inputs[name] += np.einsum("nk,nk->k", values[name], values[name])
            for name in outputs:
                outputs[name] += float(np.vdot(values[name], values[name]))
        return {
            weight: Usage(
                squares=inputs[place.input] / np.float32(self.text.tokens),
                power=outputs[place.output] / self.text.tokens,
            )
            for weight, place in self._places.items()
        }

    def factor(self, weight: str, size: int) -> Factor:
        """Return the factor of the Hessian of what is multiplied with a weight, filled up to `size` inputs.

        Ask in the order of the graph: the Hessians of the next products are gathered together and the last are dropped.
        """
        name = self._places[weight].input
        if self._factor is None or self._factor[0] != (name, size):
            self._factor = None
            self._factor = (name, size), factorize(self._hessian(name).copy(), size)
        return self._factor[1]

    def _hessian(self, name: str) -> FloatArray:
        if name not in self._hessians:
            self._hessians.clear()
            group = dict(self._group(name))
            self._hessians = {wanted: np.zeros((size, size), np.float32) for wanted, size in group.items()}
            for values in self._run(list(group)):
                for wanted, hessian in self._hessians.items():
                    _add(hessian, values[wanted])
        return self._hessians[name]

    def _group(self, first: str) -> Iterator[tuple[str, int]]:
        """Yield the inputs from `first` on, and their sizes, that fit the budget."""
        at = next(number for number, (name, _) in enumerate(self._order) if name == first)
        used = 0
        for name, size in self._order[at:]:
            used += 4 * size * (size + _WINDOW)
            if used > _BUDGET and name != first:
                return
            yield name, size

    def _run(self, names: list[str]) -> Iterator[dict[str, FloatArray]]:
        """Yield the values of those names, [rows, K], window by window."""
        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True
        for number, ids in enumerate(self.text.windows):
            self._progress("calibrate", number, len(self.text.windows))
            feeds: dict[str, Any] = {INPUT_IDS: ids[None], ATTENTION_MASK: np.ones((1, len(ids)), np.int64)}
            feeds |= {t.name: np.zeros((1, int(t.shape[1]), 0, int(t.shape[3])), np.float32) for t in self._spec.past()}
            if self._spec.logits_to_keep:
                feeds[LOGITS_TO_KEEP] = np.array(0, np.int64)
            found = self._session.run(names, feeds, options)
            yield {name: value.reshape(-1, value.shape[-1]) for name, value in zip(names, found, strict=True)}


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A product's names in its graph."""

    weight: str
    input: str
    output: str
    columns: int

    @classmethod
    def of(cls, product: Product) -> "_Place":
        value = product.node.inputs[0]
        assert value is not None
        return cls(
            weight=str(product.weight.name),
            input=str(value.name),
            output=str(product.node.outputs[0].name),
            columns=product.columns,
        )


def _open(file: Path, names: set[str]) -> ort.InferenceSession:
    """Return a session of the graph in `file` that also gives the values of those names."""
    model = graphs.load(file)
    known = {value.name for value in model.graph.outputs}
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name in sorted(names - known):
        values[name].type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(values[name])
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # As it is written: an optimized graph would hold folded and repacked copies of the weights.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    # Between two windows the cores belong to numpy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
    try:
        data = ir.to_proto(model).SerializeToString()
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # pybind exceptions of ONNX Runtime share no base class
        raise ArtifactError(f"{file}: ONNX Runtime can't load it: {error}") from error


def _add(hessian: FloatArray, values: FloatArray) -> None:
    """Add X'X of the values [n, K]."""
    for start in range(0, len(hessian), _SLAB):
        hessian[:, start : start + _SLAB] += values.T @ values[:, start : start + _SLAB]
