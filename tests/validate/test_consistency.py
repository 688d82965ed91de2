"""Precisions beside fp32 in the ways they are called, and the order in which models are in memory."""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, append, constant

from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig, ValidateConfig
from deploykit.errors import ParityError
from deploykit.quantize import quantize
from deploykit.spec import DecoderSpec, Precision
from deploykit.validate import Reference, validate
from deploykit.validate.decoder import Decoder, FloatArray, IntArray
from deploykit.validate.gate import check
from deploykit.validate.quality import measure
from deploykit.validate.report import Report
from deploykit.validate.text import read_text

FEW = ValidateConfig(tokens=64)
STEPS = {"cached steps", "cached steps, ragged, in place"}


def cases(artifact: Artifact, precision: Precision) -> dict[str, Any]:
    report = Report.of(artifact, FEW)
    check(artifact, None, FEW, report)
    return dict(report.cases[precision])


@pytest.fixture(scope="session")
def half(fused: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return quantize(fused, tmp_path_factory.mktemp("half") / "fp16", QuantizeConfig(precision="fp16"))


def test_half_precision_passes_every_case_of_its_contract(half: Artifact) -> None:
    found = cases(half, "fp16")
    assert found["reference"] == "fp32"
    assert {*STEPS, "prefill", "prefill, ragged, right-padded", "chunk on a past, in place"} <= found["cases"].keys()
    # CUDA's kernels take no padding on the left.
    assert not [name for name in found["cases"] if "left" in name]
    assert all(0 < case["max_abs_error"] <= found["allowed"] for case in found["cases"].values())


@pytest.mark.parametrize("bias", [0.5, np.nan])
def test_a_defect_in_half_precision_is_named(bias: float, half: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        append(graph, "logits", "Add", constant(graph, "bias", np.array(bias, np.float32)))

    with pytest.raises(ParityError, match=r"^logits of the fp16 model: max \|onnx - fp32\| = .* in case 'prefill'"):
        cases(altered(half, tmp_path / "planted", change, precision="fp16"), "fp16")


@pytest.mark.parametrize("precision", ["int8", "int4", "int4-fp16", "dynamic-int8"])
def test_cached_steps_are_as_near_to_fp32_as_the_prefill(precision: Any, int8: Artifact, tmp_path: Path) -> None:
    source = int8 if precision == "int8" else quantize(int8, tmp_path / "out", QuantizeConfig(precision=precision))
    found = cases(source, precision)
    assert found["cases"].keys() == STEPS
    assert found["prefill_rms_error"] > 0
    for case in found["cases"].values():
        assert 0 < case["rms_error"] <= found["allowed"]
        assert case["positions"] >= 24


def test_a_quantized_cache_that_is_wrong_is_caught(traced: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        # What later steps read; the prefill itself is right.
        append(graph, "present.0.value", "Mul", constant(graph, "half", np.array(0.5, np.float32)))

    source = quantize(traced, tmp_path / "int8", QuantizeConfig(precision="int8"))
    source = altered(source, tmp_path / "planted", change, precision="int8")
    with pytest.raises(
        ParityError, match=r"^logits of the int8 model: root mean square .* in case 'cached steps', but"
    ):
        cases(source, "int8")


def test_the_reference_is_let_go_before_a_graph_is_loaded(
    int8: Artifact, pytorch: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model:
        def __init__(self) -> None:
            # As PyTorch's modules do, so that counting references alone would never free it.
            self.itself = self

        def __call__(self, ids: IntArray) -> FloatArray:
            return pytorch(ids)

    alive: list[weakref.ref[Model]] = []

    def load() -> Reference:
        model = Model()
        alive.append(weakref.ref(model))
        return model

    class Watching(Decoder):
        def __init__(self, file: Path, spec: DecoderSpec) -> None:
            assert [model() for model in alive] == [None]
            super().__init__(file, spec)

    monkeypatch.setattr("deploykit.validate.gate.Decoder", Watching)
    assert validate(int8, None, load, FEW).manifest.parity["fp32"]["reference"] == "pytorch"


def test_fp32_runs_once_for_all_precisions(int8: Artifact, tmp_path: Path) -> None:
    class Counting(Decoder):
        runs = 0

        def run_in_place(self, ids: IntArray, mask: IntArray, cache: Sequence[Any]) -> FloatArray:
            self.runs += 1
            return super().run_in_place(ids, mask, cache)

    spec = int8.manifest.decoder
    both = quantize(int8, tmp_path / "both", QuantizeConfig(precision="int4"))
    fp32 = Counting(both.graph("fp32"), spec)
    text = read_text(both, FEW)
    seen = measure(fp32, {name: Decoder(both.graph(name), spec) for name in ("int8", "int4")}, text)
    assert seen.scores.keys() == {"int8", "int4"}
    # Each of the two samples is one window of one chunk.
    assert fp32.runs == len(seen.windows) == 2
    assert seen.scores["int4"].kl.mean() > seen.scores["int8"].kl.mean() > 0
