"""fp32 against PyTorch: what is right passes in every case, and every planted defect is caught and named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, append, constant, replace_weight

from deploykit.artifact import Artifact
from deploykit.config import ConvertConfig, ValidateConfig
from deploykit.convert import convert, torch_reference
from deploykit.errors import ArtifactError, ParityError
from deploykit.spec import DecoderSpec
from deploykit.validate import Reference, validate
from deploykit.validate.cases import Rows, Seen, row_lengths
from deploykit.validate.decoder import Decoder, FloatArray, IntArray
from deploykit.validate.parity import Truth, check_parity, compare, reference_logits, tolerance

ANY = {
    "prefill",
    "prefill, ragged, left-padded",
    "cached steps",
    "cached steps, ragged, left-padded",
    "chunk on a past",
}
SHARED = {"prefill, ragged, right-padded", "cached steps, ragged, in place", "chunk on a past, in place"}


def check(artifact: Artifact, reference: Reference | None) -> dict[str, Any]:
    spec = artifact.manifest.decoder
    ids = np.random.default_rng(3).integers(0, spec.vocab_size, 1000)
    long, ragged = row_lengths(spec.max_context)
    first, *rest = np.split(ids[: long + sum(ragged)], np.cumsum([long, *ragged])[:-1])
    rows = Rows(long=first, ragged=tuple(rest))
    known = None if reference is None else reference_logits(rows, reference)
    return check_parity(Decoder(artifact.graph("fp32"), spec), rows, known, 1e-4)


@pytest.mark.parametrize(
    ("kind", "cases"), [("fused", ANY | SHARED | {"last logits only"}), ("traced", ANY | {"last logits only"})]
)
def test_a_sound_graph_passes_every_case_of_its_kind(
    kind: str, cases: set[str], pytorch: Reference, request: pytest.FixtureRequest
) -> None:
    figures = check(request.getfixturevalue(kind), pytorch)
    assert figures["reference"] == "pytorch"
    assert set(figures["cases"]) == cases
    for case in figures["cases"].values():
        assert 0 < case["max_abs_error"] <= figures["allowed"]
        assert case["top1_agreement"] == 1
        assert case["decided"] > 0.9 * case["positions"] > 0


def test_cached_steps_begin_at_no_past_at_all(fused: Artifact, pytorch: Reference) -> None:
    cases = check(fused, pytorch)["cases"]
    assert cases["cached steps"]["positions"] == 24
    assert cases["prefill"]["positions"] == fused.manifest.decoder.max_context == 128
    assert cases["cached steps, ragged, in place"]["positions"] == 24 + 16 + 12


@pytest.mark.parametrize("bias", [0.5, -0.5, np.nan, np.inf, -np.inf])
def test_names_the_output_and_the_case_that_left_tolerance(
    bias: float, fused: Artifact, pytorch: Reference, tmp_path: Path
) -> None:
    def change(graph: ir.Graph) -> None:
        append(graph, "logits", "Add", constant(graph, "bias", np.array(bias, np.float32)))

    with pytest.raises(ParityError, match=r"logits: max \|onnx - pytorch\| = .* > 0\.000\d+ in case 'prefill'"):
        check(altered(fused, tmp_path / "planted", change), pytorch)


@pytest.mark.parametrize("bias", [0.5, -0.5, np.nan, np.inf])
def test_one_logit_of_one_position_of_the_reference_is_enough(bias: float, fused: Artifact, pytorch: Reference) -> None:
    def reference(ids: IntArray) -> FloatArray:
        logits = pytorch(ids).copy()
        if len(ids) == 24:
            logits[23, 17] += bias
        return logits

    with pytest.raises(ParityError, match=r"logits: .* in case '.*' \(row 1"):
        check(fused, reference)


def test_the_truth_itself_must_be_finite_and_a_damaged_weight_is_named(fused: Artifact, tmp_path: Path) -> None:
    name = _weights(fused)[0]

    def damage(array: Any) -> Any:
        broken = array.copy()
        broken[0, :2] = np.nan
        return broken

    source = altered(fused, tmp_path / "planted", lambda graph: replace_weight(graph, name, damage))
    with pytest.raises(ParityError, match=f"NaN or Inf in case 'prefill'.*weight '{name}' holds 2 of them"):
        check(source, None)


def test_two_heads_that_changed_places_are_caught(fused: Artifact, pytorch: Reference, tmp_path: Path) -> None:
    def swap(array: Any) -> Any:
        size = fused.manifest.decoder.layers[0].value_dim
        order = np.r_[size : 2 * size, :size, 2 * size : len(array)]
        return array[order]

    product = _behind(fused, "GroupQueryAttention")
    source = altered(fused, tmp_path / "planted", lambda graph: replace_weight(graph, product, swap))
    with pytest.raises(ParityError, match="in case 'prefill'"):
        check(source, pytorch)


def test_a_cache_that_is_wrong_along_one_axis_is_caught(traced: Artifact, pytorch: Reference, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        # Turns the tokens of one layer's keys round, so that only what reads them back is wrong.
        head, tail, axis = (constant(graph, f"c{n}", np.array([n])) for n in (-1, np.iinfo(np.int64).min, 2))
        append(graph, "present.1.value", "Slice", head, tail, axis, head)

    with pytest.raises(ParityError, match="in case 'cached steps'"):
        check(altered(traced, tmp_path / "planted", change), pytorch)


def test_a_mask_that_is_ignored_is_caught(fused: Artifact, pytorch: Reference, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        mask = next(value for value in graph.inputs if value.name == "attention_mask")
        users = [use.node for use in mask.uses()]
        ones = ir.node("Max", [mask, constant(graph, "one", np.array(1))])
        graph.insert_before(graph[0], ones)
        for node in users:
            for at, value in enumerate(node.inputs):
                if value is mask:
                    node.replace_input_with(at, ones.outputs[0])

    with pytest.raises(ParityError, match="in case 'prefill, ragged, left-padded'"):
        check(altered(fused, tmp_path / "planted", change), pytorch)


def test_without_a_reference_only_consistency_is_checked_and_said(fused: Artifact, tmp_path: Path) -> None:
    def bias(graph: ir.Graph) -> None:
        append(graph, "logits", "Add", constant(graph, "bias", np.array(0.5, np.float32)))

    figures = check(altered(fused, tmp_path / "planted", bias), None)
    assert figures["reference"] == "none"
    assert set(figures["cases"]) == (ANY | SHARED | {"last logits only"}) - {"prefill"}


def test_without_a_reference_a_wrong_cache_is_still_caught(traced: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        append(graph, "present.0.key", "Mul", constant(graph, "half", np.array(0.5, np.float32)))

    with pytest.raises(ParityError, match=r"each row alone.*in case 'cached steps'"):
        check(altered(traced, tmp_path / "planted", change), None)


@pytest.mark.parametrize(("error", "passes"), [(0.25, True), (np.nextafter(np.float32(0.25), np.float32(1)), False)])
def test_the_limit_itself_is_allowed_and_nothing_above_it(error: Any, passes: bool) -> None:
    truth = Truth(name="truth", logits=[np.array([[0, 8]], np.float32)], allowed=0.25)
    seen = [Seen(row=0, start=0, logits=np.array([[error, 8]], np.float32))]
    if passes:
        assert compare("edge", seen, truth) == {
            "max_abs_error": 0.25,
            "top1_agreement": 1.0,
            "positions": 1,
            "decided": 1,
        }
    else:
        with pytest.raises(ParityError, match="in case 'edge'"):
            compare("edge", seen, truth)


def test_a_near_tie_may_turn_round_but_is_not_counted_as_decided() -> None:
    truth = Truth(name="truth", logits=[np.array([[1.0, 1.1]], np.float32)], allowed=0.1)
    found = compare("tie", [Seen(row=0, start=0, logits=np.array([[1.09, 1.01]], np.float32))], truth)
    assert (found["top1_agreement"], found["decided"], found["positions"]) == (0, 0, 1)


def test_the_tolerance_grows_with_logits_above_one_and_never_shrinks() -> None:
    assert tolerance([np.full((2, 3), 0.01, np.float32)], 1e-4) == 1e-4
    assert tolerance([np.full((2, 3), 50, np.float32), np.full((1, 3), 50, np.float32)], 1e-4) == pytest.approx(5e-3)


def test_a_reference_of_another_model_is_refused(fused: Artifact) -> None:
    with pytest.raises(ParityError, match=r"the reference's are \[128, 7\] for 128 tokens"):
        check(fused, lambda ids: np.zeros((len(ids), 7), np.float32))


@pytest.mark.parametrize("context", [2, 3, 17])
def test_a_tiny_context_is_checked_within_its_limits(
    context: int, tiny_llama: Path, pytorch: Reference, tmp_path: Path
) -> None:
    source = convert(tiny_llama, tmp_path / "tiny", ConvertConfig(max_context=context))
    cases = validate(source, None, lambda: pytorch, ValidateConfig(tokens=16)).manifest.parity["fp32"]["cases"]
    assert cases["cached steps"]["positions"] == context


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_qwen2"])
def test_the_other_families_pass(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    checkpoint: Path = request.getfixturevalue(name)
    figures = check(convert(checkpoint, tmp_path / "out"), torch_reference(checkpoint))
    assert set(figures["cases"]) >= ANY


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: DecoderSpec(**{**vars(spec), "logits_to_keep": False}), "its inputs are"),
        (lambda spec: DecoderSpec(**{**vars(spec), "layers": spec.layers * 2}), "its inputs are"),
        (lambda spec: DecoderSpec(**{**vars(spec), "vocab_size": 7}), "logits is"),
        (lambda spec: replace(spec, cache_dtype="float16"), r"past_key_values\.0\.key is a tensor\(float\)"),
    ],
)
def test_a_graph_that_isnt_what_the_manifest_says_is_refused(
    change: Callable[[DecoderSpec], DecoderSpec], said: str, fused: Artifact
) -> None:
    with pytest.raises(ArtifactError, match=f"{said}.*but manifest.json says"):
        Decoder(fused.graph("fp32"), change(fused.manifest.decoder))


def test_a_case_that_the_runtime_refuses_is_named(fused: Artifact, pytorch: Reference, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        # Works for one row only.
        shape = constant(graph, "planted.shape", np.array([1, -1, fused.manifest.decoder.vocab_size]))
        append(graph, "logits", "Reshape", shape)
        append(graph, "logits", "Squeeze", constant(graph, "planted.axis", np.array([0])))
        append(graph, "logits", "Unsqueeze", constant(graph, "planted.first", np.array([0])))
        first = next(value for value in graph.inputs if value.name == "input_ids")
        one = ir.node("Squeeze", [first, constant(graph, "planted.rows", np.array([0]))])
        zero = ir.node("ReduceMin", [one.outputs[0]], attributes={"keepdims": 0})
        gone = ir.node("Mul", [zero.outputs[0], constant(graph, "planted.zero", np.array(0))])
        cast = ir.node("Cast", [gone.outputs[0]], attributes={"to": ir.DataType.FLOAT})
        graph.extend([one, zero, gone, cast])
        append(graph, "logits", "Add", cast.outputs[0])

    with pytest.raises(ParityError, match="ONNX Runtime fails in case 'prefill, ragged, left-padded'"):
        check(altered(fused, tmp_path / "planted", change), pytorch)


def _weights(artifact: Artifact) -> list[str]:
    from deploykit import graph

    nodes = graph.load(artifact.graph("fp32")).graph
    return [
        str(node.inputs[1].name)
        for node in nodes
        if node.op_type == "MatMul" and node.inputs[1] is not None and node.inputs[1].is_initializer()
    ]


def _behind(artifact: Artifact, op_type: str) -> str:
    """Return the weight of the first product after a node of `op_type`."""
    from deploykit import graph

    nodes = list(graph.load(artifact.graph("fp32")).graph)
    first = next(at for at, node in enumerate(nodes) if node.op_type == op_type)
    product = next(node for node in nodes[first:] if node.op_type == "MatMul")
    return str(product.inputs[1].name)  # type: ignore[union-attr]
