"""What a decoder graph takes and gives: the names, axes and types that every stage agrees on.

Axis letters, used in every docstring of the package:

    B  batch rows            S  new tokens             P  past tokens           T = P + S  total tokens
    H  attention heads       K  key/value heads        D  head size             L  layers
    V  vocabulary            N  rows of logits asked for

The names are those that optimum, onnxruntime-genai and transformers.js already read; see docs/architecture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, Self, get_args

from deploykit.errors import ArtifactError

BATCH = "batch_size"
SEQUENCE = "sequence_length"
PAST = "past_sequence_length"
TOTAL = "total_sequence_length"
NUM_LOGITS = "num_logits"

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
LOGITS_TO_KEEP = "num_logits_to_keep"
LOGITS = "logits"

SOURCE = "encoder_sequence_length"
SOURCE_PAST = "past_encoder_sequence_length"
SOURCE_TOTAL = "total_encoder_sequence_length"
DECODER_MASK = "decoder_attention_mask"
ENCODER_MASK = "encoder_attention_mask"
ENCODER_STATES = "encoder_hidden_states"
LAST_HIDDEN_STATE = "last_hidden_state"

TASK_GENERATION = "text-generation-with-past"
TASK_TEXT2TEXT = "text2text-generation-with-past"

Precision = Literal["fp32", "fp16", "int8", "int4", "int4-fp16", "dynamic-int8"]

VARIANT_FILES: Mapping[Precision, str] = {
    "fp32": "onnx/model.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_int8.onnx",
    "int4": "onnx/model_q4.onnx",
    "int4-fp16": "onnx/model_q4f16.onnx",
    "dynamic-int8": "onnx/model_quantized.onnx",
}
"""Graph file of each precision; its external data, if any, is the same name + `_data`."""

ENCODER: Final = "encoder_model"
MERGED: Final = "decoder_model_merged"
"""What the two graphs of an encoder-decoder are called where a decoder's is called `model`."""

FAST: Precision = "dynamic-int8"
"""What mode `throughput` runs: activations are rounded too, a row by itself."""

REPORT = "report.json"
REPORT_PAGE = "report.html"
REPORTS = frozenset({REPORT, REPORT_PAGE})
"""What `validate` found of an artifact's graphs, so that a stage which changes one leaves them behind."""

HALF: frozenset[Precision] = frozenset({"fp16", "int4-fp16"})
"""Precisions that compute and cache in fp16: files for a GPU. A fused one has no attention bias (ONNX Runtime's CUDA
kernels refuse it, or lose their fastest path by it), so it takes padding on the right only."""

EXACT_INT8 = "session.x64quantprecision"
"""ONNX Runtime's session option for x64 processors without VNNI: the fast kernel there adds two products of uint8 and
int8 in 16 bits, which overflows and doubles dynamic-int8's error; "1" takes the exact one. Others don't read it."""

CacheKind = Literal["shared", "concatenated"]
"""`shared`: past and present may be one buffer, longer than the past (GroupQueryAttention); rows of different lengths
lie side by side, padded on the right. `concatenated`: present is past + new, a new tensor; padded on the left."""
CacheType = Literal["float32", "float16"]
Padding = Literal["both", "right"]

_LARGEST = 2**31 - 1
"""What ONNX Runtime's attention counts in."""
_MOST_LAYERS = 10_000
"""More than ten times the deepest model there is."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A graph input or output."""

    name: str
    dtype: Literal["int64", "float32", "float16"]
    shape: tuple[str | int, ...]
    """An axis is its length, or its name where it is free."""


@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """What one layer keeps of each past token."""

    heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What an encoder-decoder has besides its decoder: the graph that reads the source, and how an answer begins."""

    width: int
    """W: size of the encoder's hidden states."""
    max_source: int
    """Longest source, in tokens."""
    decoder_prompt: tuple[int, ...]
    """Tokens that every answer begins with: the start token, and one that is forced after it, if any."""

    def inputs(self) -> list[TensorSpec]:
        """Return the encoder graph's inputs."""
        return [TensorSpec(name=name, dtype="int64", shape=(BATCH, SOURCE)) for name in (INPUT_IDS, ATTENTION_MASK)]

    def outputs(self) -> list[TensorSpec]:
        """Return the encoder graph's output."""
        return [TensorSpec(name=LAST_HIDDEN_STATE, dtype="float32", shape=(BATCH, SOURCE, self.width))]

    def nonsense(self) -> Iterator[str]:
        """Yield what no encoder can be, which a changed manifest may say."""
        for name, size in (("width", self.width), ("max_source", self.max_source)):
            if type(size) is not int or not 1 <= size <= _LARGEST:
                yield f"encoder's {name} must be 1 to {_LARGEST}, not {size!r}"
        if not self.decoder_prompt:
            yield "encoder must have a decoder_prompt"


@dataclass(frozen=True, kw_only=True)
class DecoderSpec:
    """The contract of a decoder graph."""

    cache: CacheKind
    layers: tuple[LayerCache, ...]
    vocab_size: int
    max_context: int
    """Longest T the graph can run, in tokens."""
    logits_to_keep: bool
    """Whether the graph has the scalar input `num_logits_to_keep` (0 = all rows, its default)."""
    cache_dtype: CacheType = "float32"
    """Type of keys and values; logits are float32 whatever it is."""
    padding: Padding = "both"
    """Sides on which rows may be padded."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    encoder: EncoderSpec | None = None
    """Where the decoder attends to an encoder's states as well: of the encoder, in a graph of its own."""

    def of(self, precision: Precision) -> Self:
        """Return the contract of this decoder's graph in another precision."""
        if precision not in HALF:
            return self
        return replace(self, cache_dtype="float16", padding="right" if self.cache == "shared" else self.padding)

    def past(self) -> Iterator[TensorSpec]:
        """Yield the cache inputs in graph order: layer 0 key, layer 0 value, and so on.

        With an encoder, each layer has its own keys and values first and then those of the source.
        """
        yield from self._cache("past_key_values", PAST, SOURCE_PAST)

    def present(self) -> Iterator[TensorSpec]:
        """Yield the cache outputs in the order of `past`."""
        yield from self._cache("present", TOTAL, SOURCE_TOTAL)

    def inputs(self) -> list[TensorSpec]:
        """Return every input of the decoder graph, in graph order."""
        if self.encoder:
            return [
                TensorSpec(name=INPUT_IDS, dtype="int64", shape=(BATCH, SEQUENCE)),
                TensorSpec(name=ENCODER_STATES, dtype="float32", shape=(BATCH, SOURCE, self.encoder.width)),
                TensorSpec(name=ENCODER_MASK, dtype="int64", shape=(BATCH, SOURCE_TOTAL)),
                TensorSpec(name=DECODER_MASK, dtype="int64", shape=(BATCH, TOTAL)),
                *self.past(),
            ]
        specs = [
            TensorSpec(name=INPUT_IDS, dtype="int64", shape=(BATCH, SEQUENCE)),
            TensorSpec(name=ATTENTION_MASK, dtype="int64", shape=(BATCH, TOTAL)),
        ]
        if self.logits_to_keep:
            specs.append(TensorSpec(name=LOGITS_TO_KEEP, dtype="int64", shape=()))
        return [*specs, *self.past()]

    def outputs(self) -> list[TensorSpec]:
        """Return every output of the decoder graph, in graph order."""
        rows = NUM_LOGITS if self.logits_to_keep else SEQUENCE
        logits = TensorSpec(name=LOGITS, dtype="float32", shape=(BATCH, rows, self.vocab_size))
        return [logits, *self.present()]

    def cache_bytes_per_token(self) -> int:
        """Return the cache's size for one token of one row, in bytes; a source's tokens take as much."""
        size = {"float32": 4, "float16": 2}[self.cache_dtype]
        return sum(size * layer.heads * (layer.key_dim + layer.value_dim) for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return the contract as plain JSON values."""
        data = asdict(self)
        if self.encoder is None:
            # A decoder's manifest stays as it was before there were encoders.
            del data["encoder"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "DecoderSpec":
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: a field is missing, unknown or of the wrong type.
        """
        try:
            fields = dict(data)
            fields["layers"] = tuple(LayerCache(**layer) for layer in fields["layers"])
            fields["eos_token_ids"] = tuple(fields["eos_token_ids"])
            if encoder := fields.get("encoder"):
                fields["encoder"] = EncoderSpec(**{**encoder, "decoder_prompt": tuple(encoder["decoder_prompt"])})
            spec = cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"manifest.json: the tensor contract can't be read: {error}") from error
        if wrong := next(spec._nonsense(), None):
            raise ArtifactError(f"manifest.json: the tensor contract's {wrong}; export the checkpoint again")
        return spec

    def _nonsense(self) -> Iterator[str]:
        """Yield what no decoder can be, which a changed manifest may say."""
        if not 1 <= len(self.layers) <= _MOST_LAYERS:
            yield f"layers must be 1 to {_MOST_LAYERS}, not {len(self.layers)}"
        for name, kinds in (("cache", CacheKind), ("cache_dtype", CacheType), ("padding", Padding)):
            if getattr(self, name) not in get_args(kinds):
                yield f"{name} must be one of {', '.join(get_args(kinds))}, not {getattr(self, name)!r}"
        if self.logits_to_keep not in (True, False):
            yield f"logits_to_keep must be true or false, not {self.logits_to_keep!r}"
        sizes = {"vocab_size": self.vocab_size, "max_context": self.max_context}
        for name, size in (*sizes.items(), *(pair for layer in self.layers for pair in asdict(layer).items())):
            if type(size) is not int or not 1 <= size <= _LARGEST:
                yield f"{name} must be 1 to {_LARGEST}, not {size!r}"
        if self.encoder:
            yield from self.encoder.nonsense()
        prompt = self.encoder.decoder_prompt if self.encoder else ()
        for token in (self.bos_token_id, self.pad_token_id, *self.eos_token_ids, *prompt):
            if token is not None and (type(token) is not int or abs(token) > _LARGEST):
                yield f"special tokens must be whole numbers of 32 bits, not {token!r}"

    def _cache(self, prefix: str, axis: str, source_axis: str) -> Iterator[TensorSpec]:
        sides = {".decoder": axis, ".encoder": source_axis} if self.encoder else {"": axis}
        for number, layer in enumerate(self.layers):
            for side, tokens in sides.items():
                for part, size in (("key", layer.key_dim), ("value", layer.value_dim)):
                    yield TensorSpec(
                        name=f"{prefix}.{number}{side}.{part}",
                        dtype=self.cache_dtype,
                        shape=(BATCH, layer.heads, tokens, size),
                    )


def graph_files(precision: Precision, spec: DecoderSpec) -> tuple[str, ...]:
    """Return a precision's graph files: the decoder's, and the encoder's after it where there is one."""
    file = VARIANT_FILES[precision]
    if spec.encoder is None:
        return (file,)
    return tuple(file.replace("/model", f"/{name}") for name in (MERGED, ENCODER))


def graph_parts(spec: DecoderSpec) -> tuple[str, ...]:
    """Return what the graphs are called in reports, in the order of `graph_files`; empty where there is only one."""
    return ("decoder", "encoder") if spec.encoder else ("",)


def data_file(graph_file: str) -> str:
    """Return the name of a graph file's external data, as optimum and transformers.js expect it."""
    return f"{graph_file}_data"


def shape_text(shape: Sequence[str | int]) -> str:
    """Return a shape as a reader would write it: `[batch_size, 4, 64]`."""
    return "[" + ", ".join(str(axis) for axis in shape) + "]"
