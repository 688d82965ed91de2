"""Both graphs of an encoder-decoder go through the passes, and compute what they did."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
from altering import altered

from deploykit import graph
from deploykit.artifact import Artifact
from deploykit.optimize import optimize
from deploykit.spec import DECODER_MASK
from deploykit.validate.decoder import Decoder


def detour(of: ir.Graph) -> None:
    """Put a node without effect in front of what reads the ids."""
    ids = next(value for value in of.inputs if value.name == "input_ids")
    uses = list(ids.uses())
    same = ir.node("Identity", [ids])
    for node, at in uses:
        node.replace_input_with(at, same.outputs[0])
    of.append(same)


def nodes(artifact: Artifact) -> list[int]:
    return [len(graph.load(file).graph) for file in artifact.graphs("fp32")]


def test_both_graphs_lose_what_does_nothing(pair: Artifact, tmp_path: Path) -> None:
    longer = altered(altered(pair, tmp_path / "one", detour), tmp_path / "two", detour, encoder=True)
    result = optimize(longer, tmp_path / "out")
    assert all(after < before for after, before in zip(nodes(result), nodes(longer), strict=True))
    record = result.manifest.history[-1].result
    assert (record["nodes_before"], record["nodes_after"]) == (sum(nodes(longer)), sum(nodes(result)))
    assert record["changed"]
    source, ids, mask = np.arange(3, 20), np.array([[2, 5, 9]]), np.ones((1, 3), np.int64)
    before, after = (Decoder.of(one, "fp32").read([source]).run(ids, mask)[0] for one in (pair, result))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_the_default_of_the_decoders_mask_stays(pair: Artifact, tmp_path: Path) -> None:
    found = graph.load(optimize(pair, tmp_path / "out").graph("fp32")).graph
    assert DECODER_MASK in {value.name for value in found.inputs}
    default = found.initializers[DECODER_MASK].const_value
    assert default is not None
    assert tuple(default.shape) == (1, 0)
