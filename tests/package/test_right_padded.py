"""What the repository's graphs lose: all that only padding on the left needs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, constant, failing
from ways import same_on_the_right

from deploykit import graph as graphs
from deploykit.artifact import Artifact
from deploykit.config import EngineConfig, PackageConfig, QuantizeConfig
from deploykit.convert import convert
from deploykit.draft import draft
from deploykit.engine import Engine, SamplingParams
from deploykit.errors import ArtifactError
from deploykit.package import package
from deploykit.quantize import quantize
from deploykit.spec import VARIANT_FILES, Precision, data_file

NAMED = PackageConfig(name="tiny")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int4", "dynamic-int8")


@pytest.fixture(scope="module")
def fused(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return convert(tiny_llama, tmp_path_factory.mktemp("right") / "fp32")


@pytest.fixture(scope="module")
def packaged(fused: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Precision], Artifact]:
    """Of each precision, the artifact with its repository."""
    folder = tmp_path_factory.mktemp("right")

    def made(precision: Precision) -> Artifact:
        if not (folder / precision).exists():
            source = fused if precision == "fp32" else quantize(fused, folder / "q" / precision, of(precision))
            package(source, folder / precision, NAMED)
        return Artifact.open(folder / precision)

    return made


def of(precision: Precision) -> QuantizeConfig:
    return QuantizeConfig(precision=precision)  # type: ignore[arg-type] # fp32 is none of its precisions


def inner(artifact: Artifact) -> Artifact:
    return Artifact.open(artifact.path / "model_repository/tiny/1")


def kinds(artifact: Artifact) -> list[str]:
    return [node.op_type for node in graphs.load(artifact.graph()).graph]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_repositorys_graph_has_no_bias_and_the_same_logits(
    packaged: Callable[[Precision], Artifact], precision: Precision
) -> None:
    whole, served = packaged(precision), inner(packaged(precision))
    assert (whole.contract().padding, served.contract().padding) == ("both", "right")
    assert {"Where", "Expand", "CumSum", "GatherElements"} & set(kinds(whole))
    attention = [node for node in graphs.load(served.graph()).graph if node.op_type == "GroupQueryAttention"]
    assert len(attention) == 2
    assert all(len(node.inputs) <= 10 for node in attention)
    assert not {"Expand", "CumSum", "GatherElements"} & set(kinds(served))
    same_on_the_right(whole.graph(), served.graph(), served.contract())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_the_small_file_is_another_one(
    packaged: Callable[[Precision], Artifact], fused: Artifact, precision: Precision
) -> None:
    whole, served = packaged(precision), inner(packaged(precision))
    graph = VARIANT_FILES[precision]
    data = data_file(graph)
    assert whole.manifest.files[data] == served.manifest.files[data]
    assert whole.manifest.files[graph].sha256 != served.manifest.files[graph].sha256
    assert served.manifest.files[graph] == whole.manifest.files[f"model_repository/tiny/1/{graph}"]
    result = whole.manifest.history[-1].result
    assert result["padding"] == "right"
    assert 0 < result["load_seconds"][precision] < 60
    if precision == "fp32":
        assert whole.manifest.files[graph] == fused.manifest.files[graph]


def test_the_engine_writes_the_same_with_either(packaged: Callable[[Precision], Artifact]) -> None:
    whole = packaged("int8")
    params = [SamplingParams(max_tokens=24, temperature=0.9, seed=seed, logprobs=0, ignore_eos=True) for seed in (3, 4)]
    answers = []
    for path in (whole.path, inner(whole).path):
        with Engine.open(path, EngineConfig(threads=1)) as engine:
            answers.append([engine.generate("def greet", one) for one in params])
    assert answers[0] == answers[1]


def test_packaging_the_repositorys_model_changes_nothing_more(
    packaged: Callable[[Precision], Artifact], tmp_path: Path
) -> None:
    served = inner(packaged("int8"))
    again = package(served, tmp_path / "again", NAMED)
    assert inner(again).manifest == served.manifest
    assert again.contract().padding == "right"


def test_both_modes_graphs_are_rewritten(fused: Artifact, tmp_path: Path) -> None:
    fast = quantize(fused, tmp_path / "fast", of("dynamic-int8"))
    both = quantize(fast, tmp_path / "both", of("int8"))
    served = inner(package(both, tmp_path / "out", PackageConfig(name="tiny", throughput=True)))
    assert served.precisions() == ["int8", "dynamic-int8"]
    for precision in served.precisions():
        assert "Expand" not in [node.op_type for node in graphs.load(served.graph(precision)).graph]


def test_a_fused_gpt2_keeps_its_logits(tiny_gpt2: Path, tmp_path: Path) -> None:
    source = convert(tiny_gpt2, tmp_path / "source")
    served = inner(package(source, tmp_path / "out", NAMED))
    assert "CumSum" not in kinds(served)
    same_on_the_right(source.graph(), served.graph(), served.contract())


def unchanged(source: Artifact, out: Path) -> None:
    """Check that packaging leaves a graph and its promise as they are."""
    packaged = package(source, out, NAMED)
    served = inner(packaged)
    assert served.graph().read_bytes() == source.graph().read_bytes()
    assert served.contract() == source.contract()
    assert packaged.manifest.history[-1].result == {"padding": source.contract().padding}


def test_a_traced_graph_is_left_alone(traced: Artifact, tmp_path: Path) -> None:
    unchanged(traced, tmp_path / "out")


def test_a_bias_that_says_more_than_the_mask_is_left_alone(fused: Artifact, tmp_path: Path) -> None:
    def lean(graph: ir.Graph) -> None:
        bias = next(node for node in graph if node.op_type == "Expand").outputs[0]
        users = [(use.node, use.idx) for use in bias.uses()]
        slope = ir.node("Add", [bias, constant(graph, "slope", np.full((1, 4, 1, 1), -0.5, np.float32))])
        graph.append(slope)
        for node, at in users:
            node.replace_input_with(at, slope.outputs[0])

    unchanged(altered(fused, tmp_path / "leaning", lean), tmp_path / "out")


def test_a_graph_that_needs_its_bias_keeps_it(fused: Artifact, tmp_path: Path) -> None:
    """All rows as long as the longest, told apart by the bias alone: without it, short rows give other logits."""

    def lengthen(graph: ir.Graph) -> None:
        attention = [node for node in graph if node.op_type == "GroupQueryAttention"]
        lengths, total = attention[0].inputs[5], attention[0].inputs[6]
        assert lengths is not None
        assert total is not None
        nothing = ir.node("Mul", [lengths, constant(graph, "zero", np.array(0, np.int32))])
        last = ir.node("Sub", [total, constant(graph, "one", np.array(1, np.int32))])
        longest = ir.node("Add", [nothing.outputs[0], last.outputs[0]])
        graph.extend([nothing, last, longest])
        for node in attention:
            node.replace_input_with(5, longest.outputs[0])

    unchanged(altered(fused, tmp_path / "longest", lengthen), tmp_path / "out")


def test_a_context_of_a_few_tokens_is_room_enough_to_compare(fused: Artifact, tmp_path: Path) -> None:
    with draft(tmp_path / "short") as sheet:
        sheet.carry(fused)
        spec = replace(fused.manifest.decoder, max_context=3)
        short = sheet.commit(replace(fused.manifest, decoder=spec))
    assert inner(package(short, tmp_path / "out", NAMED)).contract().padding == "right"


def test_a_graph_that_fails_when_it_runs_is_refused(fused: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="ONNX Runtime can't run it"):
        package(failing(fused, tmp_path / "failing"), tmp_path / "out", NAMED)
    assert not (tmp_path / "out").exists()
