"""One graph against a target."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deploykit.artifact import Artifact
from deploykit.doctor.finding import Finding, worst
from deploykit.doctor.graph import check_exact, check_graph, check_weights
from deploykit.doctor.target import Device, Target, find_target
from deploykit.outline import Node, Outline, Tensor, Value, read_outline


def on(release: str, device: Device = "cpu") -> Target:
    target = find_target(release, device)
    assert target is not None
    return target


def problems(outline: Outline, target: Target) -> list[Finding]:
    return [finding for finding in check_graph(outline, target) if finding.level != "ok"]


@pytest.fixture
def copy(artifact: Artifact, tmp_path: Path) -> Path:
    """The int8 graph and its data in a folder of their own."""
    source = artifact.graph("int8")
    for file in source.parent.glob(f"{source.name}*"):
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path / source.name


def test_a_graph_of_ours_runs_on_a_release_of_this_year(copy: Path) -> None:
    assert not problems(read_outline(copy), on("26.07"))


def test_names_the_operator_that_an_older_onnx_runtime_lacks(copy: Path) -> None:
    found = problems(read_outline(copy), on("25.07"))
    assert worst(found) == "error"
    assert any("GatherBlockQuantized" in f.found and "1.23" in f.found and "1.22.0" in f.found for f in found)


def test_an_opset_or_ir_too_new_is_named_with_what_the_target_reads(copy: Path) -> None:
    outline = read_outline(copy)
    newer = replace(outline, opsets={**outline.opsets, "": 24}, ir_version=12)
    (found,) = [f for f in problems(newer, on("25.12")) if f.what == "ONNX version"]
    assert "IR 12, opset 24" in found.found
    assert "up to 11 and 23" in found.found


def test_an_operator_of_an_unknown_domain(copy: Path) -> None:
    outline = read_outline(copy)
    own = replace(outline, nodes=(*outline.nodes, Node(op_type="Magic", domain="my.company")))
    assert any("my.company.Magic" in finding.found for finding in problems(own, on("26.07")))
    defined = replace(own, functions=("Magic",))
    assert not problems(defined, on("26.07"))


def attention(dtype: str, *, bias: bool) -> Outline:
    """A graph of one attention."""
    inputs = tuple(f"x{at}" for at in range(7)) + (("", "", "", "bias") if bias else ())
    node = Node(op_type="GroupQueryAttention", domain="com.microsoft", inputs=inputs)
    return Outline(
        file=Path("model.onnx"), size=1, ir_version=10, producer="", opsets={"": 20}, defaults=(),
        inputs=(Value(name="x3", dtype=dtype),), outputs=(), nodes=(node,), tensors={}, values={}, functions=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "bias", "release", "level", "said"),
    [
        ("float16", False, "26.07", "ok", ""),
        # In the wheels of onnxruntime-gpu, the refusal is in 1.24 to 1.28 and gone in 1.29.
        ("float16", True, "26.08", "error", "refused before ONNX Runtime 1.29"),
        ("float32", True, "26.08", "warning", "no CUDA kernel for float32"),
        ("float32", False, "26.08", "warning", "no CUDA kernel for float32"),
    ],
)
def test_attention_on_cuda(dtype: str, bias: bool, release: str, level: str, said: str) -> None:
    found = problems(attention(dtype, bias=bias), on(release, "cuda"))
    assert worst(found) == level
    assert said in " ".join(finding.found for finding in found)


def test_a_bias_costs_speed_where_cuda_takes_it() -> None:
    target = find_target(None, "cuda")
    assert target is not None
    newer = replace(target, runtime=replace(target.runtime, version="1.29.0"))
    (found,) = problems(attention("float16", bias=True), newer)
    assert found.level == "note"
    assert "flash" in found.found


def test_data_missing_or_short(copy: Path) -> None:
    data = copy.with_name(f"{copy.name}_data")
    data.write_bytes(data.read_bytes()[:-100])
    (short,) = check_weights(read_outline(copy))
    assert short.level == "error"
    assert f"{data.stat().st_size:,}" in short.found
    data.unlink()
    (missing,) = check_weights(read_outline(copy))
    assert "is not there" in missing.found


def test_data_behind_links(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    data, elsewhere = copy.with_name(f"{copy.name}_data"), tmp_path_factory.mktemp("elsewhere") / "data"
    os.link(data, elsewhere)
    (linked,) = check_weights(read_outline(copy))
    assert (linked.level, "2 hard links" in linked.found) == ("warning", True)
    data.unlink()
    data.symlink_to(elsewhere)
    (away,) = check_weights(read_outline(copy))
    assert (away.level, "out of the folder" in away.found) == ("error", True)


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "..\\x", ""])
def test_data_outside_the_folder(copy: Path, location: str) -> None:
    outline = read_outline(copy)
    tensor = Tensor(name="w", dtype="float32", shape=(4,), nbytes=16, location=location, length=16)
    (found,) = check_weights(replace(outline, tensors={"w": tensor}))
    assert (found.level, "outside its folder" in found.found) == ("error", True)


def test_a_tensor_that_claims_more_than_its_shape(copy: Path) -> None:
    tensor = Tensor(name="w", dtype="float32", shape=(4,), nbytes=16, location="d", length=1 << 40)
    (found,) = check_weights(replace(read_outline(copy), tensors={"w": tensor}))
    assert "claims 1,099,511,627,776 bytes" in found.found


def test_a_file_past_the_limit_of_protobuf(copy: Path) -> None:
    (found,) = check_weights(replace(read_outline(copy), size=1 << 31))
    assert "past protobuf's 2,147,483,647" in found.found


@pytest.mark.parametrize("kind", ["MatMulInteger", "MatMulIntegerToFloat"])
@pytest.mark.parametrize(
    ("release", "device", "overflows", "warned"),
    [("26.07", "cpu", True, True), ("26.07", "cpu", False, False), ("26.07", "cuda", True, False)],
)
def test_warns_of_dynamic_int8_where_its_fast_kernel_overflows(
    copy: Path, release: str, device: Device, overflows: bool, warned: bool, kind: str
) -> None:
    outline, target = read_outline(copy), on(release, device)
    dynamic = replace(outline, nodes=(Node(op_type=kind),))
    found = list(check_exact(dynamic, target, overflows=overflows))
    assert [finding.level for finding in found] == ["warning"] * warned
    newer = replace(target, runtime=replace(target.runtime, version="1.32.0"))
    assert not list(check_exact(dynamic, newer, overflows=overflows))
    assert not list(check_exact(outline, target, overflows=overflows))
