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

    def __init__(self, graph: Graph, model: EncoderDecoder, weights: Weights, *, longest: int) -> None:
        self.graph, self.stack = graph, StackWriter(graph, model, model.encoder, weights, longest=longest)
        self.mask = graph.inputs[ATTENTION_MASK]
        places = self._places()
        self.near = self.stack.distances(places, places)
        self.biases: dict[int, ir.Value] = {}
        # One of the two is enough: the bias of relative positions holds the mask as well.
        self.open = None if self.near else graph.op("Cast", self.mask, to=ir.DataType.INT32)

    def write(self) -> None:
        """Write the whole encoder into the graph."""
        stack, names = self.stack, self.stack.stack.names
        state: Stream = (stack.embed(stack.table(names.embedding), lambda: counted(self.graph, self.mask)), None)
        for number in range(stack.stack.layers):
            with self.graph.scope(f"layers.{number}"):
                state = self._layer(number, f"{names.layer}.{number}", state)
        self.graph.outputs[LAST_HIDDEN_STATE] = stack.finish(state)

    def _layer(self, number: int, prefix: str, state: Stream) -> Stream:
        stack, names = self.stack, self.stack.stack.names
        with self.graph.scope("attention"):
            bias = self._bias(stack.layer_of_bias(number))
            state = stack.block(
                state,
                f"{prefix}.{names.attention.norm}",
                lambda x: stack.attend_to_self(x, names.attention, prefix, self.open, bias)[0],
            )
        with self.graph.scope("mlp"):
            return stack.block(state, f"{prefix}.{names.mlp_norm}", lambda x: stack.mlp(x, prefix))

    def _places(self) -> ir.Value:
        """Return the places of the source's tokens, int64 [S]."""
        length = self.graph.op("Squeeze", self.graph.op("Shape", self.mask, start=1, end=2))
        return self.graph.op("Range", self.graph.constant(0), length, self.graph.constant(1))

    def _bias(self, layer: int) -> ir.Value | None:
        """Return what is added to a layer's scores, [B, H, S, S], where positions are relative."""
        if self.near is None:
            return None
        if layer not in self.biases:
            graph = self.graph
            seen = graph.op("Unsqueeze", graph.op("Cast", self.mask, to=ir.DataType.BOOL), graph.constant([1, 2]))
            self.biases[layer] = graph.op("Where", seen, self.near(layer), graph.constant(blocks.MASKED))
        return self.biases[layer]


def counted(graph: Graph, mask: ir.Value) -> ir.Value:
    """Return each place's position, int64 like the mask: how many ones come before it, padding on either side."""
    seen = graph.op("CumSum", mask, graph.constant(1))
    return graph.op("Max", graph.op("Sub", seen, graph.constant(1)), graph.constant(0))
