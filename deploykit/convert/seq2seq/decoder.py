"""Writes the graph that makes the answer: one for the first step and all others, without a branch."""

from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

import deploykit.convert.blocks as blocks
from deploykit.convert.builder import DecoderGraph
from deploykit.convert.seq2seq.description import EncoderDecoder
from deploykit.convert.seq2seq.encoder import counted
from deploykit.convert.seq2seq.stack import StackWriter, Stream, find_any
from deploykit.convert.weights import Weights
from deploykit.spec import DECODER_MASK, ENCODER_MASK, ENCODER_STATES, INPUT_IDS, LOGITS


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the new tokens of an answer stand, and what they may see."""

    past: ir.Value
    """int64 [1]: P."""
    mask: ir.Value
    """int64 [B, T]: 1 where a token is real."""
    keys: ir.Value
    """int64 [T]: all places."""
    queries: ir.Value
    """int64 [S]: those of the new tokens."""
    bias: ir.Value
    """[B, 1, S, T]: 0, or `MASKED` for padding and what comes after the query."""


class DecoderWriter:
    """A decoder being written."""

    def __init__(self, graph: DecoderGraph, model: EncoderDecoder, weights: Weights, *, longest: int) -> None:
        self.graph, self.model, self.weights = graph, model, weights
        self.stack = StackWriter(graph, model, model.decoder, weights, longest=longest)
        with graph.scope("places"):
            self.places = _places(graph)
            self.near = self.stack.distances(self.places.queries, self.places.keys)
            self.biases: dict[int, ir.Value] = {}
        with graph.scope("source"):
            self.open = graph.op("Cast", graph.inputs[ENCODER_MASK], to=ir.DataType.INT32)
            self.states = _new_states(graph)

    def write(self) -> None:
        """Write the whole decoder into the graph."""
        stack, names = self.stack, self.stack.stack.names
        table = stack.table(names.embedding)
        state: Stream = (stack.embed(table, self._positions), None)
        for number in range(stack.stack.layers):
            with self.graph.scope(f"layers.{number}"):
                state = self._layer(number, f"{names.layer}.{number}", state)
        with self.graph.scope("head"):
            self._head(stack.finish(state), table)

    def _positions(self) -> ir.Value:
        """Return positions of the new tokens, int64 [B, S]."""
        graph, one = self.graph, self.graph.constant([1])
        last = graph.op("Shape", self.places.mask, start=1, end=2)
        return graph.op("Slice", counted(graph, self.places.mask), self.places.past, last, one)

    def _layer(self, number: int, prefix: str, state: Stream) -> Stream:
        stack, names = self.stack, self.stack.stack.names
        assert names.cross is not None
        with self.graph.scope("attention"):
            attend = partial(self._attend, number, prefix)
            state = stack.block(state, f"{prefix}.{names.attention.norm}", attend)
        with self.graph.scope("cross_attention"):
            look = partial(self._look_at_source, number, prefix)
            state = stack.block(state, f"{prefix}.{names.cross.norm}", look)
        with self.graph.scope("mlp"):
            return stack.block(state, f"{prefix}.{names.mlp_norm}", lambda x: stack.mlp(x, prefix))

    def _attend(self, number: int, prefix: str, x: ir.Value) -> ir.Value:
        graph = self.graph
        past = [graph.inputs[f"past_key_values.{number}.decoder.{part}"] for part in ("key", "value")]
        extra = (None, self._bias(self.stack.layer_of_bias(number)), *past)
        update, key, value = self.stack.attend_to_self(x, self.stack.stack.names.attention, prefix, *extra, outputs=3)
        graph.outputs[f"present.{number}.decoder.key"] = key
        graph.outputs[f"present.{number}.decoder.value"] = value
        return update

    def _bias(self, layer: int) -> ir.Value:
        """Return what is added to a layer's scores, [B, 1 or H, S, T]."""
        if self.near is None:
            return self.places.bias
        if layer not in self.biases:
            self.biases[layer] = self.graph.op("Add", self.places.bias, self.near(layer))
        return self.biases[layer]

    def _look_at_source(self, number: int, prefix: str, x: ir.Value) -> ir.Value:
        stack, names, size = self.stack, self.stack.stack.names.cross, self.stack.stack.projected
        assert names is not None
        query = stack.linear([f"{prefix}.{names.query}"], x, self.model.width, size)
        kept = self._source_cache(number, [f"{prefix}.{name}" for name in (names.key, names.value)])
        (mixed,) = stack.attention(query, *kept, None, self.open)
        return stack.linear([f"{prefix}.{names.output}"], mixed, size, self.model.width)

    def _source_cache(self, number: int, matrices: list[str]) -> list[ir.Value]:
        """Return the source's keys and values in a layer, [B, H, S', D]: those of the cache, or new ones."""
        graph, stack = self.graph, self.stack.stack
        packed = self.stack.linear(matrices, self.states, self.model.width, stack.projected, packed="kv_proj")
        kept = []
        for part, flat in zip(("key", "value"), blocks.split(graph, packed, (stack.projected,) * 2), strict=True):
            # Both sizes spelt out: of no states at all, -1 couldn't be told.
            apart = graph.op("Reshape", flat, graph.constant([0, 0, stack.heads, stack.head_size]))
            heads = graph.op("Transpose", apart, perm=[0, 2, 1, 3])
            past = graph.inputs[f"past_key_values.{number}.encoder.{part}"]
            kept.append(graph.op("Concat", past, heads, axis=2))
            graph.outputs[f"present.{number}.encoder.{part}"] = kept[-1]
        return kept

    def _head(self, hidden: ir.Value, table: ir.Value) -> None:
        graph, model, shape = self.graph, self.model, (self.stack.stack.vocabulary, self.model.width)
        stored = find_any(self.weights, model.head, shape)
        if stored is find_any(self.weights, self.stack.stack.names.embedding, shape):
            matrix = graph.op("Transpose", table, perm=[1, 0])
        else:
            matrix = graph.weight(stored, transpose=True)
        logits = blocks.linear(graph, self.stack.scaled(hidden, model.logit_scale), matrix)
        if model.logit_bias is not None and model.logit_bias in self.weights.tensors:
            bias = graph.weight(self.weights.find(model.logit_bias, (1, shape[0])))
            logits = graph.op("Add", logits, bias)
        graph.outputs[LOGITS] = logits


def _places(graph: DecoderGraph) -> Places:
    past = graph.op("Shape", graph.inputs["past_key_values.0.decoder.key"], start=2, end=3)
    rows = graph.op("Shape", graph.inputs[INPUT_IDS], start=0, end=1)
    total = graph.op("Add", past, graph.op("Shape", graph.inputs[INPUT_IDS], start=1, end=2))
    mask = _whole_mask(graph, rows, total)
    one = graph.constant(1)
    length = graph.op("Squeeze", total)
    keys = graph.op("Range", graph.constant(0), length, one)
    queries = graph.op("Range", graph.op("Squeeze", past), length, one)
    before = graph.op("LessOrEqual", keys, graph.op("Unsqueeze", queries, graph.constant([1])))
    real = graph.op("Unsqueeze", graph.op("Cast", mask, to=ir.DataType.BOOL), graph.constant([1, 2]))
    seen = graph.op("And", real, before)
    bias = graph.op("Where", seen, graph.constant(0.0), graph.constant(blocks.MASKED))
    return Places(past=past, mask=mask, keys=keys, queries=queries, bias=bias)


def _whole_mask(graph: DecoderGraph, rows: ir.Value, total: ir.Value) -> ir.Value:
    """Return the mask [B, T] of all tokens: what was given of it, then ones."""
    given = graph.inputs[DECODER_MASK]
    width = graph.op("Shape", given, start=1, end=2)
    known = graph.op("Expand", given, graph.op("Concat", rows, width, axis=0))
    rest = graph.op("Concat", rows, graph.op("Sub", total, width), axis=0)
    return graph.op("Concat", known, graph.op("Expand", graph.constant([1]), rest), axis=1)


def _new_states(graph: DecoderGraph) -> ir.Value:
    """Return the source's states that have no keys and values yet: all, or [B, 0, W] where there is a cache."""
    states, zero = graph.inputs[ENCODER_STATES], graph.constant([0])
    past = graph.op("Shape", graph.inputs["past_key_values.0.encoder.key"], start=2, end=3)
    given = graph.op("Shape", states, start=1, end=2)
    new = graph.op("Where", graph.op("Equal", past, zero), given, zero)
    return graph.op("Slice", states, zero, new, graph.constant([1]))
