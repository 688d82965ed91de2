"""Writes the graph that reads the source."""

import onnx_ir as ir

import deploykit.convert.blocks as blocks
from deploykit.convert.builder import Graph
from deploykit.convert.seq2seq.description import EncoderDecoder
from deploykit.convert.seq2seq.stack import StackWriter, Stream
from deploykit.convert.weights import Weights
from deploykit.spec import ATTENTION_MASK, LAST_HIDDEN_STATE


class EncoderWriter:
    """An encoder being written."""

    def __init__(self, graph: Graph, model: EncoderDecoder, weights: Weights) -> None:
        self.graph, self.stack = graph, StackWriter(graph, model, model.encoder, weights)
        self.mask = graph.inputs[ATTENTION_MASK]
        self.bias = self._bias()
        # One of the two is enough: the bias of relative positions holds the mask as well.
        self.open = None if self.bias else graph.op("Cast", self.mask, to=ir.DataType.INT32)

    def write(self) -> None:
        """Write the whole encoder into the graph."""
        stack, names = self.stack, self.stack.stack.names
        state: Stream = (stack.embed(stack.table(names.embedding), lambda: counted(self.graph, self.mask)), None)
        for number in range(stack.stack.layers):
            with self.graph.scope(f"layers.{number}"):
                state = self._layer(f"{names.layer}.{number}", state)
        self.graph.outputs[LAST_HIDDEN_STATE] = stack.finish(state)

    def _layer(self, prefix: str, state: Stream) -> Stream:
        stack, names = self.stack, self.stack.stack.names
        with self.graph.scope("attention"):
            state = stack.block(
                state,
                f"{prefix}.{names.attention.norm}",
                lambda x: stack.attend_to_self(x, names.attention, prefix, self.open, self.bias)[0],
            )
        with self.graph.scope("mlp"):
            return stack.block(state, f"{prefix}.{names.mlp_norm}", lambda x: stack.mlp(x, prefix))

    def _bias(self) -> ir.Value | None:
        """Return what is added to the scores, [B, H, S, S], where positions are relative."""
        graph, zero, one = self.graph, self.graph.constant(0), self.graph.constant(1)
        places = graph.op("Range", zero, graph.op("Squeeze", graph.op("Shape", self.mask, start=1, end=2)), one)
        near = self.stack.distances(places, places)
        if near is None:
            return None
        seen = graph.op("Unsqueeze", graph.op("Cast", self.mask, to=ir.DataType.BOOL), graph.constant([1, 2]))
        return graph.op("Where", seen, near, graph.constant(blocks.MASKED))


def counted(graph: Graph, mask: ir.Value) -> ir.Value:
    """Return each place's position, int64 like the mask: how many ones come before it, padding on either side."""
    seen = graph.op("CumSum", mask, graph.constant(1))
    return graph.op("Max", graph.op("Sub", seen, graph.constant(1)), graph.constant(0))
