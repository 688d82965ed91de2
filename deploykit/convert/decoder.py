"""Writes the graph of a described decoder, with the checkpoint's tensors."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

import deploykit.convert.blocks as blocks
import deploykit.convert.rotary as rotary
from deploykit.convert.blocks import Tables
from deploykit.convert.builder import DecoderGraph
from deploykit.convert.description import XIELU, Decoder, Layer, Norm
from deploykit.convert.weights import FloatArray, Weights
from deploykit.spec import INPUT_IDS, LOGITS


class Writer:
    """A decoder being written: residual stream in, residual stream out, layer by layer."""

    def __init__(self, graph: DecoderGraph, decoder: Decoder, weights: Weights) -> None:
        self.graph, self.decoder, self.names, self.weights = graph, decoder, decoder.names, weights
        turned = [layer.rotary for layer in decoder.layers if layer.rotary is not None]
        # A norm between rotation and attention leaves the kernel nothing to rotate.
        self.in_kernel = not (decoder.head_norm and decoder.head_norm.after_rotary) and all(
            one.in_kernel(decoder.head_size, graph.spec.max_context) for one in turned
        )
        # ONNX Runtime 1.32's kernel ignores the positions it is given where there is no past, and rotates by place; so
        # the later ones must count as it does.
        self.places = blocks.positions(graph, count_leading=bool(turned) and self.in_kernel)
        self.tables = {
            one.name: rotary.tables(graph, one, self.places, in_kernel=self.in_kernel)
            for one in {one.name: one for one in turned}.values()
        }

    def write(self) -> None:
        """Write the whole decoder into the graph."""
        stream, update = self._embedding(), None
        for number, layer in enumerate(self.decoder.layers):
            with self.graph.scope(f"layers.{number}"):
                stream, update = self._layer(number, layer, stream, update)
        _, hidden = self._enter(self.names.final, stream, update)
        with self.graph.scope("head"):
            self._head(hidden)

    @cached_property
    def _table(self) -> ir.Value:
        shape = (self.decoder.vocabulary, self.decoder.width)
        return self.graph.weight(self.weights.find(f"{self.names.embedding}.weight", shape))

    def _embedding(self) -> ir.Value:
        graph, decoder = self.graph, self.decoder
        with graph.scope("embedding"):
            stream = graph.op("Gather", self._table, graph.inputs[INPUT_IDS])
            stream = self._scaled(stream, decoder.embedding_scale)
            if self.names.positions:
                shape = (decoder.positions, decoder.width)
                learned = graph.weight(self.weights.find(f"{self.names.positions}.weight", shape))
                stream = graph.op("Add", stream, graph.op("Gather", learned, self.places.ids))
            return self._norm("", decoder.norm, decoder.width, stream) if decoder.embedding_norm else stream

    def _layer(self, number: int, layer: Layer, stream: ir.Value, update: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """Return the residual stream and what is still to be added to it."""
        graph, names, prefix = self.graph, self.names, f"{self.names.layer}.{number}"
        with graph.scope("attention"):
            stream, hidden = self._enter(names.before_attention, stream, update, prefix)
            update = self._leave(names.after_attention, self._attention(number, layer, hidden, prefix), prefix)
        with graph.scope("mlp"):
            if not self.decoder.parallel:
                stream, hidden = self._enter(names.before_mlp, stream, update, prefix)
                return stream, self._leave(names.after_mlp, self._mlp(hidden, prefix), prefix)
            if names.before_mlp:
                hidden = self._norm(f"{prefix}.{names.before_mlp}", self.decoder.norm, self.decoder.width, stream)
            return stream, graph.op("Add", update, self._leave(names.after_mlp, self._mlp(hidden, prefix), prefix))

    def _enter(
        self, name: str | None, stream: ir.Value, update: ir.Value | None, prefix: str = ""
    ) -> tuple[ir.Value, ir.Value]:
        """Return the residual stream with `update` added, and what a block makes of it: its norm, if it has one."""
        norm, width = self.decoder.norm, self.decoder.width
        if name is None:
            stream = stream if update is None else self.graph.op("Add", stream, update)
            return stream, stream
        full = f"{prefix}.{name}" if prefix else name
        if update is None:
            return stream, self._norm(full, norm, width, stream)
        scale, bias = self._norm_weights(full, norm, width)
        return blocks.skip_norm(self.graph, stream, update, scale, bias, kind=norm.kind, epsilon=norm.epsilon)

    def _leave(self, name: str | None, update: ir.Value, prefix: str) -> ir.Value:
        """Return what a block adds to the residual stream."""
        if name is not None:
            update = self._norm(f"{prefix}.{name}", self.decoder.norm, self.decoder.width, update)
        return self._scaled(update, self.decoder.residual_scale)

    def _attention(self, number: int, layer: Layer, x: ir.Value, prefix: str) -> ir.Value:
        graph, decoder, names = self.graph, self.decoder, self.names
        size, tables = decoder.head_size, self.tables[layer.rotary.name] if layer.rotary else None
        queries, keys = decoder.heads * size, decoder.shared_heads * size
        packed = self._linear(
            tuple(f"{prefix}.{name}" for name in names.qkv),
            x,
            decoder.width,
            (queries, keys, keys),
            biased=decoder.qkv_bias,
            packed="qkv_proj",
        )
        if decoder.clip_qkv is not None:
            bound = float(decoder.clip_qkv)
            packed = graph.op("Clip", packed, graph.constant(-bound), graph.constant(bound))
        parts: tuple[ir.Value, ...] = (packed,)
        if decoder.head_norm or (tables and not tables.in_kernel):
            q, k, v = blocks.split(graph, packed, (queries, keys, keys))
            q = self._prepare(f"{prefix}.{names.query_norm}", q, decoder.heads, tables)
            parts = q, self._prepare(f"{prefix}.{names.key_norm}", k, decoder.shared_heads, tables), v
        mixed = blocks.attention(
            graph,
            parts,
            number,
            self.places,
            tables if tables and tables.in_kernel else None,
            heads=decoder.heads,
            scale=layer.scale,
            softcap=decoder.softcap,
            window=layer.window,
        )
        output = (f"{prefix}.{names.output}",)
        return self._linear(output, mixed, queries, (decoder.width,), biased=decoder.output_bias)

    def _prepare(self, name: str, x: ir.Value, heads: int, tables: Tables | None) -> ir.Value:
        """Return queries or keys x [B, S, H * D], normalized and turned, as far as the kernel doesn't do it."""
        norm, outside = self.decoder.head_norm, tables is not None and not tables.in_kernel
        if norm and not norm.after_rotary:
            x = self._head_norm(name, x, heads)
        if outside and tables:
            x = blocks.turn(self.graph, x, tables, heads=heads)
        return self._head_norm(name, x, heads) if norm and norm.after_rotary else x

    def _head_norm(self, name: str, x: ir.Value, heads: int) -> ir.Value:
        graph, size, described = self.graph, self.decoder.head_size, self.decoder.head_norm
        assert described is not None
        norm = described.norm
        if described.over == "all":
            return self._norm(name, norm, heads * size, x)
        x = blocks.split_heads(graph, x, size)
        if described.over == "head":
            return blocks.join_heads(graph, self._norm(name, norm, size, x))
        x = blocks.norm(graph, x, graph.ones(size), None, kind=norm.kind, epsilon=norm.epsilon)
        return graph.op("Mul", blocks.join_heads(graph, x), self._each_head(name, heads))

    def _each_head(self, name: str, heads: int) -> ir.Value:
        """Return the weights [H * D] of a norm that has D for each head."""
        size, listed = self.decoder.head_size, self.decoder.head_norm and self.decoder.head_norm.listed
        if listed:
            tensors = [self.weights.find(f"{name}.norms.{head}.weight", (size,)) for head in range(heads)]
            return self.graph.weight(*tensors, name=f"{name}.weight")
        rows = self.weights.find(f"{name}.weight", (heads, size))
        return self.graph.weight(replace(rows, shape=(heads * size,)))

    def _mlp(self, x: ir.Value, prefix: str) -> ir.Value:
        graph, decoder, names = self.graph, self.decoder, self.names
        inner = decoder.inner
        sizes = (inner, inner) if decoder.gated else (inner,)
        up = tuple(f"{prefix}.{name}" for name in names.up)
        opened = self._linear(up, x, decoder.width, sizes, biased=decoder.mlp_bias, packed="gate_up_proj")
        if decoder.gated:
            gate, opened = blocks.split(graph, opened, sizes)
            opened = graph.op("Mul", self._activation(gate, prefix), opened)
        else:
            opened = self._activation(opened, prefix)
        return self._linear((f"{prefix}.{names.down}",), opened, inner, (decoder.width,), biased=decoder.mlp_bias)

    def _activation(self, x: ir.Value, prefix: str) -> ir.Value:
        if self.decoder.activation == XIELU:
            return self._xielu(f"{prefix}.mlp.act_fn", x)
        return blocks.ACTIVATIONS[self.decoder.activation](self.graph, x)

    def _xielu(self, name: str, x: ir.Value) -> ir.Value:
        shapes: dict[str, tuple[int, ...]] = {"alpha_p": (1,), "alpha_n": (1,), "beta": (), "eps": ()}
        rising, falling, beta, floor = (
            replace(self.weights.find(f"{name}.{part}", shape), shape=(1,)) for part, shape in shapes.items()
        )

        def negative() -> Iterator[FloatArray]:
            parts = np.empty((2, 1), np.float32)
            falling.read_into(parts[0])
            beta.read_into(parts[1])
            yield _softplus(parts[0]) + parts[1]

        slope = self.graph.generated(f"{name}.alpha_n", (1,), negative)
        positive = self.graph.weight(rising, change=_softplus)
        return blocks.xielu(self.graph, x, positive, slope, self.graph.weight(beta), self.graph.weight(floor))

    def _head(self, hidden: ir.Value) -> None:
        graph, decoder = self.graph, self.decoder
        # Scaled before the product: fewer elements, and the product itself stays what makes the logits.
        rows = self._scaled(blocks.wanted_rows(graph, hidden, self.places), decoder.logit_scale)
        if decoder.tied:
            matrix = graph.op("Transpose", self._table, perm=[1, 0])
        else:
            shape = (decoder.vocabulary, decoder.width)
            matrix = graph.weight(self.weights.find(f"{self.names.head}.weight", shape), transpose=True)
        bias = self.weights.find(f"{self.names.head}.bias", (decoder.vocabulary,)) if decoder.logit_bias else None
        logits = blocks.linear(graph, rows, matrix, graph.weight(bias) if bias else None)
        graph.outputs[LOGITS] = (
            blocks.soft_cap(graph, logits, decoder.logit_softcap) if decoder.logit_softcap else logits
        )

    def _linear(
        self,
        names: tuple[str, ...],
        x: ir.Value,
        inputs: int,
        outputs: tuple[int, ...],
        *,
        biased: bool,
        packed: str = "",
    ) -> ir.Value:
        """Return x times the matrices `names`, one product that is `outputs` wide.

        Args:
            names: of the tensors, without .weight: as many as there are outputs, or one that holds all.
            x: [B, S, inputs].
            inputs: width of x.
            outputs: widths of the results.
            biased: whether something is added to the product.
            packed: what the product of several matrices is called in place of their own last names.
        """
        graph, first = self.graph, self.decoder.inputs_first
        rows = outputs if len(names) == len(outputs) else (sum(outputs),)
        name = names[0] if len(names) == 1 else f"{names[0].rpartition('.')[0]}.{packed}"
        shapes = [(inputs, size) if first else (size, inputs) for size in rows]
        change = self._by_part if self.decoder.qkv_by_head and packed == "qkv_proj" else None
        found = [self.weights.find(f"{n}.weight", shape) for n, shape in zip(names, shapes, strict=True)]
        matrix = graph.weight(*found, name=f"{name}.weight", transpose=not first, change=change)
        if not biased:
            return blocks.linear(graph, x, matrix)
        biases = [self.weights.find(f"{n}.bias", (size,)) for n, size in zip(names, rows, strict=True)]
        return blocks.linear(graph, x, matrix, graph.weight(*biases, name=f"{name}.bias", change=change))

    def _by_part(self, rows: FloatArray) -> FloatArray:
        """Return rows that lie head by head (query, key, value; query, …) as all queries, all keys, all values."""
        apart = rows.reshape(self.decoder.heads, 3, self.decoder.head_size, -1)
        return np.ascontiguousarray(apart.swapaxes(0, 1)).reshape(rows.shape)

    def _norm(self, name: str, norm: Norm, size: int, x: ir.Value) -> ir.Value:
        scale, bias = self._norm_weights(name, norm, size)
        return blocks.norm(self.graph, x, scale, bias, kind=norm.kind, epsilon=norm.epsilon)

    def _norm_weights(self, name: str, norm: Norm, size: int) -> tuple[ir.Value, ir.Value | None]:
        if not norm.weight:
            return self.graph.ones(size), None
        change = (lambda stored: stored + np.float32(norm.offset)) if norm.offset else None
        scale = self.graph.weight(self.weights.find(f"{name}.weight", (size,)), change=change)
        return scale, self.graph.weight(self.weights.find(f"{name}.bias", (size,))) if norm.bias else None

    def _scaled(self, x: ir.Value, factor: float) -> ir.Value:
        return x if factor == 1.0 else self.graph.op("Mul", x, self.graph.constant(float(factor)))


def _softplus(x: FloatArray) -> FloatArray:
    """Return log(1 + e^x): the form in which xIELU's alphas count, stored as x."""
    return np.logaddexp(x, np.float32(0.0))
