"""How much memory an engine takes at its peak, from the graph and what is asked of it.

What ONNX Runtime does with a graph file's weights, seen in /proc/self/smaps of sessions with and without prepacking
(1.32, x86-64):

- External data is mapped. A tensor that a kernel reads where it lies (a table, a norm, rotary angles) costs file
  pages once it has been read.
- The constant operand of a product is copied into the kernel's own layout while the session opens, and its mapping is
  given up. While the largest one is copied, both exist: that is the peak of loading.
- A weight behind Transpose, Reshape or Cast is computed once, and only the result goes into the product.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from deploykit.outline import Node, Outline, Tensor
from deploykit.spec import DecoderSpec

DEFAULT_CONTEXT: Final = 4096
"""Longest row of an engine where nobody says, in tokens; see `EngineConfig.max_context`."""
LIBRARIES: Final = 18_000_000
"""Bytes of ONNX Runtime's code and working memory that opening and running any session brings in, beyond import."""
_SAME: Final = frozenset({"Transpose", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze"})
_PRODUCTS: Final[Mapping[str, int]] = {
    "MatMul": 1, "Gemm": 1, "FusedMatMul": 1, "MatMulNBits": 1, "MatMulInteger": 1, "DynamicQuantizeMatMul": 1,
    "MatMulIntegerToFloat": 1,
}  # fmt: skip
"""Operator → the input that holds its weight."""
INTEGER_PRODUCTS: Final = frozenset({"MatMulInteger", "MatMulIntegerToFloat"})
"""Operators that multiply int8 as integers: dynamic-int8's."""
_LANES: Final = 16
"""Packed columns are padded to a multiple of this: MLAS's widest kernels."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of an engine."""

    rows: int
    context: int
    """Tokens a row can hold."""
    chunk: int
    """Prompt tokens run at once."""
    source: int = 0
    """Tokens that a row's source can have, beside its context; an encoder reads all of them at once."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes of an engine's process at its peak, every row full."""

    process: int
    """The interpreter with the engine's packages and the tokenizer, and ONNX Runtime at work."""
    weights: int
    """Products, in the kernels' layout."""
    tables: int
    """Tensors read where they lie; file pages, which the system can take back."""
    cache: int
    """Keys and values of every row at its full context, and of its source."""
    activations: int
    """Working memory of a step, logits among it."""
    loading: int
    """The largest product's weight once more, as it is while the kernel's copy is made."""

    @property
    def peak(self) -> int:
        """The most that is in memory at once: while the session opens, or while every row is full."""
        return self.process + self.weights + max(self.loading, self.tables + self.cache + self.activations)

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as plain JSON values."""
        return {**asdict(self), "peak": self.peak}

    def arithmetic(self) -> str:
        """Return the sum as a reader can check it."""
        running = self.tables + self.cache + self.activations
        if self.loading > running:
            return f"process {_mb(self.process)} + weights {_mb(self.weights)} + while loading {_mb(self.loading)}"
        parts = (
            f"process {_mb(self.process)}", f"weights {_mb(self.weights)}", f"tables {_mb(self.tables)}",
            f"cache {_mb(self.cache)}", f"activations {_mb(self.activations)}",
        )  # fmt: skip
        return " + ".join(parts)


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Bytes of a graph's weights in memory, as `Estimate` has them."""

    weights: int
    tables: int
    loading: int


def estimate(
    outline: Outline,
    spec: DecoderSpec,
    load: Load,
    *,
    process: int,
    dot_product: bool = True,
    encoder: Outline | None = None,
) -> Estimate:
    """Return what an engine on a graph takes.

    Args:
        outline: the graph.
        spec: its contract.
        load: rows, context and chunk.
        process: bytes of the process before a session is opened.
        dot_product: whether the processor has one for int8 (VNNI); without it ONNX Runtime turns the weights of
            dynamic-int8 from int8 into uint8 before it packs them.
        encoder: the encoder's graph, where there is one.
    """
    graphs = [outline, *([encoder] if encoder else [])]
    held = [_held(graph, dot_product) for graph in graphs]
    return Estimate(
        process=process + LIBRARIES,
        weights=sum(graph.weights for graph in held),
        tables=sum(graph.tables for graph in held),
        cache=_cache(spec, load),
        activations=_activations(outline, spec, load) + (_encoding(encoder, load) if encoder else 0),
        loading=max(graph.loading for graph in held),
    )


def _held(outline: Outline, dot_product: bool) -> _Held:
    """Return what a graph's weights take."""
    products = list(_products(outline))
    packed = {(tensor.name, node.op_type): _packed(node, tensor) for node, tensor in products}
    beside = _side_inputs(node for node, _ in products)
    taken = {tensor.name for _, tensor in products} | beside
    # Scales stay mapped beside their packed copies.
    scales = sum(outline.tensors[name].nbytes for name in beside if name in outline.tensors)
    return _Held(
        weights=sum(packed.values()) + scales,
        tables=sum(t.nbytes for t in outline.tensors.values() if t.name not in taken or _read_too(t.name, outline)),
        loading=max((_unpacked(node, tensor, dot_product) for node, tensor in products), default=0) + _mapped(products),
    )


def _products(outline: Outline) -> Iterable[tuple[Node, Tensor]]:
    """Yield each product with a constant weight, and the weight as it lies in the file; a shared one only once."""
    makers = {output: node for node in outline.nodes for output in node.outputs}
    seen: set[tuple[str, str]] = set()
    for node in outline.nodes:
        at = _PRODUCTS.get(node.op_type)
        if at is None or len(node.inputs) <= at:
            continue
        name = node.inputs[at]
        while name in makers and makers[name].op_type in _SAME:
            name = makers[name].inputs[0]
        tensor = outline.tensors.get(name)
        if tensor is not None and len(tensor.shape) > 1 and (name, node.op_type) not in seen:
            seen.add((name, node.op_type))
            yield node, tensor


def _packed(node: Node, tensor: Tensor) -> int:
    """Return the bytes of a weight in its kernel's layout."""
    count = math.prod(tensor.shape)
    if node.op_type == "MatMulNBits":
        rows, columns = (int(node.attributes.get(name) or 0) for name in ("N", "K"))
        blocks = -(-columns // max(1, int(node.attributes.get("block_size") or 32)))
        # Weights, then a scale and a sum of each block, both fp32.
        return tensor.nbytes + 2 * 4 * _padded(rows) * blocks
    if tensor.dtype in {"int8", "uint8"}:
        return count + 4 * max(tensor.shape)
    # fp16 has no product on the CPU: its weights are turned into fp32.
    return 4 * _padded(tensor.shape[-1]) * (count // tensor.shape[-1])


def _unpacked(node: Node, tensor: Tensor, dot_product: bool) -> int:
    """Return the bytes of a weight's other copies while it is packed."""
    # As it lies in the file, and as fp16 turned into fp32, or int8 into uint8.
    if node.op_type in INTEGER_PRODUCTS and not dot_product:
        return 2 * tensor.nbytes
    return tensor.nbytes * (3 if tensor.dtype == "float16" and node.op_type != "MatMulNBits" else 1)


def _mapped(products: Iterable[tuple[Node, Tensor]]) -> int:
    """Return what of dynamic-int8's other weights is still mapped while the largest one is packed.

    ONNX Runtime 1.32 packs them in an order that changes from run to run: a 71M Llama took 204 MB three times and
    249 MB three times, which is none and all of the others. Half of them is within 15 % of either.
    """
    sizes = [tensor.nbytes for node, tensor in products if node.op_type in INTEGER_PRODUCTS]
    return (sum(sizes) - max(sizes, default=0)) // 2


def _side_inputs(nodes: Iterable[Node]) -> set[str]:
    """Return the scales and zero points of block-wise products."""
    return {name for node in nodes if node.op_type == "MatMulNBits" for name in node.inputs[2:4] if name}


def _read_too(name: str, outline: Outline) -> bool:
    """Return whether a product's weight is also read where it lies, as a table that shares it is."""
    return any(
        name in node.inputs and node.op_type not in _SAME and node.op_type not in _PRODUCTS for node in outline.nodes
    )


def _cache(spec: DecoderSpec, load: Load) -> int:
    each = spec.cache_bytes_per_token() * load.rows
    full = each * load.context
    # A concatenating step holds the past, what it is put together from when a row joins, and the present. A source's
    # keys and values are never added to, so they are there once, and twice when a row joins. (With them once, engines
    # of 4 and 16 rows took up to 20 % more than was reckoned; with them twice up to 10 %.)
    return (full if spec.cache == "shared" else 3 * full) + 2 * each * load.source


def _activations(outline: Outline, spec: DecoderSpec, load: Load) -> int:
    """Return the bytes of a step: a chunk's, or that of all rows decoding where it is larger."""
    tokens = max(load.rows, load.chunk)
    kept = load.rows if spec.logits_to_keep else tokens
    # The graph's logits, and a copy of them while tokens are drawn.
    logits = 2 * 4 * kept * spec.vocab_size
    # The first step of a row makes keys and values of its whole source.
    widest = _widest(outline, spec.vocab_size) * max(tokens, load.source)
    return 4 * 4 * widest + _attending(outline, tokens, load.context + load.source) + logits


def _encoding(outline: Outline, load: Load) -> int:
    """Return the bytes of an encoder that reads one source at once."""
    return 4 * 4 * _widest(outline, 0) * load.source + _attending(outline, load.source, load.source)


def _widest(outline: Outline, vocab_size: int) -> int:
    """Return the outputs for each token of the widest product but the head.

    Its output, its activation and their product live together; the stream beside them is narrower.
    """
    widths = (_width(node, outline) for node, _ in _products(outline))
    return max((width for width in widths if width != vocab_size), default=0)


def _attending(outline: Outline, tokens: int, context: int) -> int:
    """Return the bytes of an attention's scores, and of the masks around it."""
    heads = max((int(node.attributes.get("num_heads") or 0) for node in outline.nodes), default=0)
    return 4 * (heads + 8) * tokens * context


def _width(node: Node, outline: Outline) -> int:
    """Return how many outputs a product has for each token."""
    tensor = outline.tensors.get(node.inputs[1])
    return int(node.attributes.get("N") or 0) or (tensor.shape[-1] if tensor else 0)


def _padded(columns: int) -> int:
    return -(-columns // _LANES) * _LANES


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
