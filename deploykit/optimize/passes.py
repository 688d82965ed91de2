"""The passes a graph goes through, each `graph → (graph, changed)`, and the order they go in."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from deploykit.errors import DeploykitError
from deploykit.progress import Progress, silent

FOLD_LIMIT: Final = 1024
"""Largest constant that is computed ahead, in elements: shapes and indices, never weights, which stay on disk."""
MAX_ROUNDS: Final = 8
"""Rounds of all passes until none changes anything; two are usual."""
_SAMPLE: Final = 1024
"""Elements compared first when looking for equal weights: a page of floats, so that unequal ones are hardly read."""

Pass = Callable[[ir.Model], tuple[ir.Model, bool]]
"""From a graph to the same graph simplified, and whether anything changed."""


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """What a pass did, over all rounds."""

    name: str
    changed: bool
    nodes_before: int
    nodes_after: int
    seconds: float


def _constant_folding(model: ir.Model) -> tuple[ir.Model, bool]:
    def small(node: ir.Node) -> bool | None:
        sizes = [value.const_value.size for value in node.inputs if value is not None and value.const_value is not None]
        return False if max(sizes, default=0) > FOLD_LIMIT else None

    # It shall not name what nobody reads: an optional output with a name is one that ONNX Runtime must compute.
    unread = [value for node in model.graph.all_nodes() for value in node.outputs if not value.name]
    result = fold_constants(model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT, should_fold=small)
    for value in unread:
        value.name = ""
    _detach(result.model.graph)
    return result.model, bool(result.modified)


def _detach(graph: ir.Graph) -> None:
    """Copy what was folded to a mere view of a weight: it would keep the weight's file mapped, which is let go of."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.Tensor) and tensor.size <= FOLD_LIMIT and not tensor.numpy().flags.owndata:
            value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def _equal_initializers(model: ir.Model) -> tuple[ir.Model, bool]:
    """Merge initializers with the same type, shape and bytes, reading in full only those that begin alike."""
    alike: dict[object, list[ir.Value]] = defaultdict(list)
    changed = False
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output() or tensor.dtype == ir.DataType.STRING:
            continue
        begin = _bytes(tensor, slice(_SAMPLE)).tobytes()
        group = alike[tensor.dtype, tuple(tensor.shape), begin]
        twin = next((other for other in group if _same_bytes(tensor, other.const_value)), None)
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
        if twin is None:
            group.append(value)
            continue
        value.replace_all_uses_with(twin)
        del model.graph.initializers[str(value.name)]
        changed = True
    return model, changed


def _same_bytes(one: ir.TensorProtocol, other: ir.TensorProtocol | None) -> bool:
    assert other is not None
    # Bytes, not values: NaN must equal itself and 0.0 must not equal -0.0.
    same = np.array_equal(_bytes(one), _bytes(other))
    if isinstance(other, ir.ExternalTensor):
        other.release()
    return same


def _bytes(tensor: ir.TensorProtocol, part: slice = slice(None)) -> NDArray[np.uint8]:
    return np.ascontiguousarray(tensor.numpy().reshape(-1)[part]).view(np.uint8)


def _of(pass_: ir.passes.InPlacePass) -> Pass:
    def run(model: ir.Model) -> tuple[ir.Model, bool]:
        result = pass_(model)
        return result.model, bool(result.modified)

    return run


PASSES: Final[dict[str, Pass]] = {
    "inline functions": _of(common.InlinePass()),
    "remove identities": _of(common.IdentityEliminationPass()),
    "lift constants": _of(common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)),
    "fold constants": _constant_folding,
    "merge equal initializers": _equal_initializers,
    "merge equal nodes": _of(common.CommonSubexpressionEliminationPass()),
    "remove unused nodes": _of(common.RemoveUnusedNodesPass()),
    "remove unused functions": _of(common.RemoveUnusedFunctionsPass()),  # type: ignore[no-untyped-call] # no annotations
    "remove unused opsets": _of(common.RemoveUnusedOpsetsPass()),
}
"""Each pass by the name that reports and errors use, in order."""


def run_passes(
    model: ir.Model, passes: dict[str, Pass] = PASSES, *, progress: Progress = silent
) -> tuple[ir.Model, list[PassReport]]:
    """Run the passes, all of them again until none changes anything, and return the graph and what each did.

    Raises:
        DeploykitError: a pass failed; its name and those that ran before it are in the message.
    """
    reports = [
        PassReport(name=name, changed=False, nodes_before=0, nodes_after=_count(model), seconds=0.0) for name in passes
    ]
    with _defaults_set_aside(model.graph):
        for number in range(MAX_ROUNDS):
            before = {}
            for name in _shown(passes, progress, number):
                model, before[name] = _run(model, name, passes)
            reports = [_add(report, before[report.name], first=number == 0) for report in reports]
            if not any(report.changed for report in before.values()):
                break
    progress("optimize", len(passes), len(passes))
    return model, reports


def _shown(passes: dict[str, Pass], progress: Progress, number: int) -> Iterator[str]:
    for done, name in enumerate(passes):
        progress("optimize", done, len(passes), f"round {number + 1}: {name}")
        yield name


def _run(model: ir.Model, name: str, passes: dict[str, Pass]) -> tuple[ir.Model, PassReport]:
    before, start = _count(model), time.perf_counter()
    try:
        model, changed = passes[name](model)
    except Exception as error:
        names = list(passes)
        earlier = ", ".join(names[: names.index(name)]) or "none"
        raise DeploykitError(
            f"optimize: pass {name!r} failed on a graph of {before} nodes: {error.__cause__ or error}; passes before "
            f"it: {earlier}; this is a defect of deploykit: report it, and skip this stage meanwhile"
        ) from error
    seconds = time.perf_counter() - start
    return model, PassReport(
        name=name, changed=changed, nodes_before=before, nodes_after=_count(model), seconds=round(seconds, 4)
    )


def _add(total: PassReport, this: PassReport, *, first: bool) -> PassReport:
    return PassReport(
        name=total.name,
        changed=total.changed or this.changed,
        nodes_before=this.nodes_before if first else total.nodes_before,
        nodes_after=this.nodes_after,
        seconds=round(total.seconds + this.seconds, 4),
    )


def _count(model: ir.Model) -> int:
    return sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))


@contextmanager
def _defaults_set_aside(graph: ir.Graph) -> Iterator[None]:
    """Hide the default values of graph inputs from every pass: callers may override them, so nothing may fold them."""
    names = [value.name for value in graph.inputs if value.is_initializer()]
    values = [graph.initializers.pop(str(name)) for name in names]
    defaults = [value.const_value for value in values]
    for value in values:
        value.const_value = None
    try:
        yield
    finally:
        for value, default in zip(values, defaults, strict=True):
            value.const_value = default
            graph.initializers.add(value)
