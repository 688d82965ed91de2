"""The stage: what it records, reports and leaves behind."""

from pathlib import Path

import pytest

from deploykit.artifact import Artifact
from deploykit.config import ConvertConfig
from deploykit.convert import convert
from deploykit.errors import OutputError


def test_the_artifact_says_how_it_came_about(tmp_path: Path, tiny_qwen2: Path) -> None:
    returned = convert(str(tiny_qwen2), tmp_path / "out")
    artifact = Artifact.open(tmp_path / "out")
    assert artifact.manifest == returned.manifest
    manifest = artifact.manifest
    assert (manifest.architecture, manifest.model_type, manifest.served) == ("Qwen2ForCausalLM", "qwen2", "fp32")
    assert manifest.task == "text-generation-with-past"
    (record,) = manifest.history
    assert (record.stage, record.result["method"], record.options["opset"]) == ("convert", "fused", 20)
    assert set(record.versions) >= {"onnx-ir", "torch", "transformers"}
    assert str(tmp_path) not in (artifact.path / "manifest.json").read_text()


@pytest.mark.parametrize("opset", [20, 21, 22, 23])
def test_each_opset_is_loaded(tmp_path: Path, tiny_llama: Path, opset: int) -> None:
    from deploykit.validate.decoder import Decoder

    artifact = convert(tiny_llama, tmp_path / "out", ConvertConfig(opset=opset))
    Decoder(artifact.graph(), artifact.manifest.decoder)


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, tiny_llama: Path) -> None:
    one, other = (convert(tiny_llama, tmp_path / name).manifest.files for name in "ab")
    assert one == other


def test_reports_what_is_written(tmp_path: Path, tiny_llama: Path) -> None:
    reports: dict[str, list[tuple[float, float]]] = {}

    def listen(what: str, done: float, total: float, note: str = "") -> None:
        reports.setdefault(what, []).append((done, total))

    artifact = convert(tiny_llama, tmp_path / "out", progress=listen)
    for seen in reports.values():
        done, totals = zip(*seen, strict=True)
        assert list(done) == sorted(done)
        assert len(set(totals)) == 1
        assert done[-1] == pytest.approx(totals[-1])
    written = reports["writing weights"][-1][1]
    assert written == pytest.approx(artifact.manifest.files["onnx/model.onnx_data"].size / 1e6, rel=0.05)


def test_an_output_that_exists_is_left_alone(tmp_path: Path, tiny_llama: Path) -> None:
    first = convert(tiny_llama, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    with pytest.raises(OutputError, match=r"exists already"):
        convert(tiny_llama, tmp_path / "out")
    assert before == {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    again = convert(tiny_llama, tmp_path / "out", ConvertConfig(max_context=32), overwrite=True)
    assert again.manifest.decoder.max_context == 32
