"""Artifacts whose model goes wrong at one token: with NaN, or with an exception."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
from altering import altered, append, constant

from deploykit.artifact import Artifact


def poisoned(artifact: Artifact, out: Path, token: int, how: Literal["nan", "raise"]) -> Artifact:
    """Return a copy of `artifact` that gives a row NaN, or fails, when `token` is among its new tokens."""

    def change(graph: ir.Graph) -> None:
        ids = next(value for value in graph.inputs if value.name == "input_ids")

        def op(kind: str, *inputs: ir.Value) -> ir.Value:
            node = ir.node(kind, inputs)
            graph.append(node)
            return node.outputs[0]

        hit = op("Equal", ids, constant(graph, "poison.token", np.array(token)))
        place = op(
            "Where",
            hit,
            constant(graph, "poison.place", np.array(1 if how == "nan" else 10**6)),
            constant(graph, "poison.else", np.array(0)),
        )
        # Past the table's end, Gather raises.
        dose = op("Gather", constant(graph, "poison.table", np.array([0, np.nan], np.float32)), place)
        dose = op("ReduceSum", dose, constant(graph, "poison.axis", np.array([1])))
        append(graph, "logits", "Add", op("Unsqueeze", dose, constant(graph, "poison.last", np.array([2]))))

    return altered(artifact, out, change)
