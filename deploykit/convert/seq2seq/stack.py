"""What the graphs of an encoder and of a decoder are both made of: embedding, residual stream, products, MLP."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

import deploykit.convert.blocks as blocks
from deploykit.convert.builder import CONTRIB, Graph
from deploykit.convert.seq2seq.description import Attention, EncoderDecoder, Learned, Relative, Stack
from deploykit.convert.seq2seq.positions import buckets, pieces
from deploykit.convert.weights import FloatArray, StoredTensor, Weights
from deploykit.errors import CheckpointError
from deploykit.spec import INPUT_IDS

Stream = tuple[ir.Value, ir.Value | None]
"""The residual stream, and what is still to be added to it."""
Block = Callable[[ir.Value], ir.Value]
"""From what enters a block, [B, S, W], to what it adds to the residual stream."""


class StackWriter:
    """One of the two stacks being written."""

    def __init__(self, graph: Graph, model: EncoderDecoder, stack: Stack, weights: Weights, *, longest: int) -> None:
        """Write nothing yet.

        Args:
            graph: being written.
            model: what is written.
            stack: which of its two.
            weights: the checkpoint's.
            longest: most tokens that the stack takes.
        """
        self.graph, self.model, self.stack, self.weights, self.longest = graph, model, stack, weights, longest

    def table(self, names: Sequence[str]) -> ir.Value:
        """Return a table [V, W] that the checkpoint has under one of `names`."""
        return self.graph.weight(find_any(self.weights, names, (self.stack.vocabulary, self.model.width)))

    def embed(self, table: ir.Value, ids: Callable[[], ir.Value]) -> ir.Value:
        """Return the embedded tokens [B, S, W] at the positions `ids` [B, S], which are only made if they count."""
        graph, names = self.graph, self.stack.names
        with graph.scope("embedding"):
            stream = self.scaled(graph.op("Gather", table, graph.inputs[INPUT_IDS]), self.model.embedding_scale)
            if (places := self._positions(ids)) is not None:
                stream = graph.op("Add", stream, places)
            return stream if names.embedding_norm is None else self._norm(names.embedding_norm, stream)

    def _positions(self, ids: Callable[[], ir.Value]) -> ir.Value | None:
        graph, kind, width = self.graph, self.stack.positions, self.model.width
        if isinstance(kind, Relative):
            return None
        if isinstance(kind, Learned):
            learned = graph.weight(self.weights.find(f"{kind.name}.weight", (kind.rows, width)))
            return graph.op("Gather", learned, graph.op("Add", ids(), graph.constant(kind.offset)))
        if kind.name is not None and f"{kind.name}.weight" in self.weights.tensors:
            table = graph.weight(self.weights.find(f"{kind.name}.weight", (kind.rows, width)))
        else:
            # No more than can be asked for: what config.json says of them may be far beyond.
            rows = min(kind.rows, self.longest)
            table = graph.generated("positions", (rows, width), lambda: pieces(kind.table, rows, width))
        return graph.op("Gather", table, ids())

    def distances(self, queries: ir.Value, keys: ir.Value) -> Callable[[int], ir.Value] | None:
        """Return what gives a layer's bias of scores by distance, [1, H, S, T]; None where positions aren't relative.

        Args:
            queries: places of the queries, int64 [S].
            keys: places of the keys, int64 [T].
        """
        graph, kind = self.graph, self.stack.positions
        if not isinstance(kind, Relative):
            return None
        apart = graph.op("Sub", keys, graph.op("Unsqueeze", queries, graph.constant([1])))
        least, most = graph.constant(-kind.farthest), graph.constant(kind.farthest if kind.both_ways else 0)
        column = graph.op("Sub", graph.op("Clip", apart, least, most), least)

        def near(layer: int) -> ir.Value:
            return graph.op(
                "Unsqueeze", graph.op("Gather", self._by_distance(kind, layer), column, axis=1), graph.constant([0])
            )

        return near

    def _by_distance(self, kind: Relative, layer: int) -> ir.Value:
        """Return a layer's table of biases, spread from buckets to distances, [H, distances]."""
        heads, rows = self.stack.heads, buckets(kind)
        name = f"{self.stack.names.layer}.{layer}.{kind.name}"
        stored = self.weights.find(f"{name}.weight", (kind.buckets, heads))

        def spread() -> Iterator[FloatArray]:
            table = np.empty(stored.shape, np.float32)
            stored.read_into(table)
            yield table[rows].T

        return self.graph.generated(f"{name}.by_distance", (heads, rows.size), spread)

    def layer_of_bias(self, number: int) -> int:
        """Return the layer whose bias of scores a layer has."""
        return number if isinstance(self.stack.positions, Relative) and self.stack.positions.by_layer else 0

    def block(self, state: Stream, norm: str, run: Block) -> Stream:
        """Return the stream after a block, whose norm comes before it or after the sum."""
        stream, update = state
        if self.model.norm_first:
            stream, hidden = self._enter(norm, stream, update)
            return stream, run(hidden)
        scale, bias = self._norm_weights(norm)
        kind, epsilon = self.model.norm.kind, self.model.norm.epsilon
        return blocks.skip_norm(self.graph, stream, run(stream), scale, bias, kind=kind, epsilon=epsilon)[1], None

    def finish(self, state: Stream) -> ir.Value:
        """Return what leaves the stack, [B, S, W]."""
        stream, update = state
        if self.stack.names.final_norm is not None:
            return self._enter(self.stack.names.final_norm, stream, update)[1]
        return stream if update is None else self.graph.op("Add", stream, update)

    def _enter(self, norm: str, stream: ir.Value, update: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """Return the stream with `update` added, and its norm."""
        if update is None:
            return stream, self._norm(norm, stream)
        scale, bias = self._norm_weights(norm)
        kind, epsilon = self.model.norm.kind, self.model.norm.epsilon
        return blocks.skip_norm(self.graph, stream, update, scale, bias, kind=kind, epsilon=epsilon)

    def mlp(self, x: ir.Value, prefix: str) -> ir.Value:
        """Return what a layer's MLP adds."""
        graph, model, names, inner = self.graph, self.model, self.stack.names, self.stack.inner
        up = [f"{prefix}.{name}" for name in names.up]
        opened = self.linear(up, x, model.width, inner, packed="gate_up_proj")
        activate = blocks.ACTIVATIONS[model.activation]
        if model.gated:
            gate, opened = blocks.split(graph, opened, (inner, inner))
            opened = graph.op("Mul", activate(graph, gate), opened)
        else:
            opened = activate(graph, opened)
        return self.linear([f"{prefix}.{names.down}"], opened, inner, model.width)

    def attend_to_self(
        self, x: ir.Value, names: Attention, prefix: str, *extra: ir.Value | None, outputs: int = 1
    ) -> Sequence[ir.Value]:
        """Return what self-attention adds, [B, S, W], and further outputs of its kernel.

        Args:
            x: what it starts from, [B, S, W].
            names: of its tensors.
            prefix: the layer's.
            extra: inputs of MultiHeadAttention from its key padding mask on.
            outputs: how many outputs of the kernel are wanted.
        """
        size = self.stack.projected
        matrices = [f"{prefix}.{name}" for name in (names.query, names.key, names.value)]
        packed = self.linear(matrices, x, self.model.width, size, packed="qkv_proj")
        parts = blocks.split(self.graph, packed, (size,) * 3)
        mixed, *others = self.attention(*parts, None, *extra, outputs=outputs)
        return [self.linear([f"{prefix}.{names.output}"], mixed, size, self.model.width), *others]

    def attention(self, *inputs: ir.Value | None, outputs: int = 1) -> Sequence[ir.Value]:
        """Return the outputs of a MultiHeadAttention."""
        return self.graph.ops(
            "MultiHeadAttention",
            *inputs,
            outputs=outputs,
            domain=CONTRIB,
            num_heads=self.stack.heads,
            scale=self.stack.scale,
            mask_filter_value=blocks.MASKED,
        )

    def linear(self, names: Sequence[str], x: ir.Value, inputs: int, outputs: int, *, packed: str = "") -> ir.Value:
        """Return x [B, S, inputs] times the matrices `names`, each `outputs` wide, as one product.

        Args:
            names: of the tensors, without .weight.
            x: [B, S, inputs].
            inputs: width of x.
            outputs: width of each matrix's result.
            packed: what the product of several matrices is called in place of their own last names.
        """
        name = names[0] if len(names) == 1 else f"{names[0].rpartition('.')[0]}.{packed}"
        found = [self.weights.find(f"{each}.weight", (outputs, inputs)) for each in names]
        matrix = self.graph.weight(*found, name=f"{name}.weight", transpose=True)
        if not self.model.biased:
            return blocks.linear(self.graph, x, matrix)
        biases = [self.weights.find(f"{each}.bias", (outputs,)) for each in names]
        return blocks.linear(self.graph, x, matrix, self.graph.weight(*biases, name=f"{name}.bias"))

    def _norm(self, name: str, x: ir.Value) -> ir.Value:
        scale, bias = self._norm_weights(name)
        return blocks.norm(self.graph, x, scale, bias, kind=self.model.norm.kind, epsilon=self.model.norm.epsilon)

    def _norm_weights(self, name: str) -> tuple[ir.Value, ir.Value | None]:
        shape = (self.model.width,)
        scale = self.graph.weight(self.weights.find(f"{name}.weight", shape))
        if not self.model.norm.bias:
            return scale, None
        return scale, self.graph.weight(self.weights.find(f"{name}.bias", shape))

    def scaled(self, x: ir.Value, factor: float) -> ir.Value:
        """Return x times a factor."""
        return x if factor == 1.0 else self.graph.op("Mul", x, self.graph.constant(float(factor)))


def find_any(weights: Weights, names: Sequence[str], shape: tuple[int, ...]) -> StoredTensor:
    """Return the first of `names` that the checkpoint has.

    Raises:
        CheckpointError: it has none of them, or not in that shape.
    """
    for name in names:
        if f"{name}.weight" in weights.tensors or f"{name}.weight".partition(".")[2] in weights.tensors:
            return weights.find(f"{name}.weight", shape)
    raise CheckpointError(
        f"{weights.source}: no tensor {f'{names[0]}.weight'!r} among its {len(weights.tensors)}; "
        "the checkpoint is incomplete or doesn't fit its config.json"
    )
