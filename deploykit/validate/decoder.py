"""A decoder graph in ONNX Runtime, run the ways its callers run it: with a cache of its own, or one in place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from deploykit.errors import ArtifactError
from deploykit.external import check_external_data
from deploykit.failing import in_one_line
from deploykit.spec import ATTENTION_MASK, EXACT_INT8, INPUT_IDS, LOGITS, LOGITS_TO_KEEP, DecoderSpec, shape_text

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Cache = list[NDArray[np.floating[Any]]]

_TYPES: Final = {"int64": "tensor(int64)", "float32": "tensor(float)", "float16": "tensor(float16)"}
_ERRORS_ONLY: Final = 3  # OrtLoggingLevel; a graph input with a default is a warning, and meant


class Decoder:
    """A graph that was found to have the contract's inputs and outputs."""

    def __init__(self, file: Path, spec: DecoderSpec) -> None:
        """Load `file`.

        Raises:
            ArtifactError: its weights lie elsewhere, ONNX Runtime can't load it, or it isn't what `spec` says.
        """
        check_external_data(file)
        self.file = file
        self.spec = spec
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry(EXACT_INT8, "1")
        with in_one_line(file, "load"):
            self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._check_contract()

    def _check_contract(self) -> None:
        # ONNX Runtime lists an input with a default apart.
        inputs = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        for what, wanted, found in (
            ("inputs", self.spec.inputs(), inputs),
            ("outputs", self.spec.outputs(), self._session.get_outputs()),
        ):
            if sorted(tensor.name for tensor in wanted) != sorted(tensor.name for tensor in found):
                raise ArtifactError(
                    f"{self.file}: its {what} are {', '.join(tensor.name for tensor in found)}, but manifest.json "
                    f"says {', '.join(tensor.name for tensor in wanted)}; export the checkpoint again"
                )
            shapes = {tensor.name: tensor.shape for tensor in found}
            types = {tensor.name: tensor.type for tensor in found}
            for tensor in wanted:
                if types[tensor.name] != _TYPES[tensor.dtype]:
                    raise ArtifactError(
                        f"{self.file}: {tensor.name} is a {types[tensor.name]}, but manifest.json says {tensor.dtype}; "
                        "export the checkpoint again"
                    )
                fixed = [(a, b) for a, b in zip(tensor.shape, shapes[tensor.name], strict=False) if isinstance(a, int)]
                if len(tensor.shape) != len(shapes[tensor.name]) or any(
                    isinstance(b, int) and a != b for a, b in fixed
                ):
                    raise ArtifactError(
                        f"{self.file}: {tensor.name} is {shape_text(shapes[tensor.name])}, but manifest.json says "
                        f"{shape_text(tensor.shape)}; export the checkpoint again"
                    )

    def empty_cache(self, rows: int, length: int = 0) -> Cache:
        """Return the cache of `rows` rows, zeros, [B, K, length, D] for each key and value."""
        sizes = [tensor.shape for tensor in self.spec.past()]
        return [np.zeros((rows, int(heads), length, int(size)), self.spec.cache_dtype) for _, heads, _, size in sizes]

    def run(self, ids: IntArray, mask: IntArray, past: Cache | None = None) -> tuple[FloatArray, Cache]:
        """Return logits of every new token, [B, S, V], and the cache that now holds them, [B, K, T, D] each.

        Args:
            ids: new tokens, [B, S].
            mask: which of the past and new tokens are real, [B, T].
            past: what the last call returned; empty where None.
        """
        feeds: dict[str, Any] = {INPUT_IDS: ids, ATTENTION_MASK: mask, **self._keep(0)}
        cache = self.empty_cache(len(ids)) if past is None else past
        feeds.update(zip((tensor.name for tensor in self.spec.past()), cache, strict=True))
        logits, *present = self._run([LOGITS, *(tensor.name for tensor in self.spec.present())], feeds)
        return logits, present

    def last_logits(self, ids: IntArray, mask: IntArray) -> FloatArray:
        """Return logits [B, n, V] of a prefill that asks for those of each row's last token only."""
        feeds: dict[str, Any] = {INPUT_IDS: ids, ATTENTION_MASK: mask, **self._keep(1)}
        feeds.update(zip((tensor.name for tensor in self.spec.past()), self.empty_cache(len(ids)), strict=True))
        return np.asarray(self._run([LOGITS], feeds)[0])

    def run_in_place(self, ids: IntArray, mask: IntArray, cache: Sequence[NDArray[np.floating[Any]]]) -> FloatArray:
        """Return logits of every new token, [B, S, V], and write keys and values into `cache`, [B, K, capacity, D]."""
        binding = self._session.io_binding()
        held = [np.ascontiguousarray(ids), np.ascontiguousarray(mask)]
        binding.bind_cpu_input(INPUT_IDS, held[0])
        binding.bind_cpu_input(ATTENTION_MASK, held[1])
        for name, value in self._keep(0).items():
            # bind_cpu_input refuses an input that has a default.
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
        for past, present, buffer in zip(self.spec.past(), self.spec.present(), cache, strict=True):
            place = ("cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)
            binding.bind_input(past.name, *place)
            binding.bind_output(present.name, *place)
        binding.bind_output(LOGITS, "cpu")
        with in_one_line(self.file, "run"):
            self._session.run_with_iobinding(binding)
        # Outputs come in the order in which they were bound.
        return np.asarray(binding.get_outputs()[-1].numpy())

    def _run(self, outputs: list[str], feeds: dict[str, Any]) -> list[Any]:
        with in_one_line(self.file, "run"):
            return list(self._session.run(outputs, feeds))

    def _keep(self, rows: int) -> dict[str, IntArray]:
        return {LOGITS_TO_KEEP: np.array(rows, np.int64)} if self.spec.logits_to_keep else {}
