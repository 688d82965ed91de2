"""The stage: what it writes, and that it writes nothing where it fails."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, append, constant, without

from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig, ValidateConfig
from deploykit.errors import ArtifactError, OutputError, ParityError
from deploykit.quantize import quantize
from deploykit.validate import Reference, validate

FEW = ValidateConfig(tokens=200)


def test_writes_the_figures_into_a_new_artifact(int8: Artifact, pytorch: Reference, tmp_path: Path) -> None:
    result = validate(int8, tmp_path / "out", lambda: pytorch, FEW)
    opened = Artifact.open(tmp_path / "out")
    assert opened.manifest == result.manifest
    # The card tells the figures, too.
    added = {"report.json", "report.html", "README.md"}
    assert {name: entry for name, entry in opened.manifest.files.items() if name not in added} == {
        name: entry for name, entry in int8.manifest.files.items() if name not in added
    }
    assert opened.manifest.history[-1].stage == "validate"
    assert opened.manifest.history[-1].options["tokens"] == 200
    parity = opened.manifest.parity
    assert set(parity) == {"fp32", "int8"}
    assert parity["fp32"]["reference"] == "pytorch"
    assert set(parity["fp32"]["cases"]["prefill"]) == {"max_abs_error", "top1_agreement", "positions", "decided"}
    assert set(parity["int8"]) == {
        "perplexity",
        "perplexity_fp32",
        "perplexity_loss",
        "kl",
        "top1_agreement",
        "tokens",
        "trained",
        "over",
        "text",
        "slices_over",
    }
    json.dumps(parity, allow_nan=False)


def test_without_an_output_it_only_returns_the_figures(int8: Artifact, tmp_path: Path) -> None:
    before = (int8.path / "manifest.json").read_bytes()
    result = validate(int8.path, None, None, FEW)
    assert result.path == int8.path
    assert result.manifest.parity["fp32"]["reference"] == "none"
    assert (int8.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("precision", ["int4", "dynamic-int8"])
def test_every_precision_is_measured(precision: str, int8: Artifact, tmp_path: Path) -> None:
    both = quantize(int8, tmp_path / "both", QuantizeConfig(precision=precision))  # type: ignore[arg-type]
    parity = validate(both, None, None, FEW).manifest.parity
    assert set(parity) == {"fp32", "int8", precision}
    assert parity[precision]["kl"] > parity["int8"]["kl"]


def test_without_a_tokenizer_random_ids_only_report(int8: Artifact, pytorch: Reference, tmp_path: Path) -> None:
    bare = without(int8, tmp_path / "bare", "tokenizer.json")
    parity = validate(bare, None, lambda: pytorch, ValidateConfig(tokens=200, max_kl=0)).manifest.parity
    assert parity["int8"]["text"] == "random tokens"
    assert parity["int8"]["trained"] is False


def test_a_failure_leaves_nothing_and_an_older_output_untouched(
    int8: Artifact, pytorch: Reference, tmp_path: Path
) -> None:
    def bias(graph: ir.Graph) -> None:
        append(graph, "logits", "Add", constant(graph, "bias", np.array(0.5, np.float32)))

    source = altered(int8, tmp_path / "source", bias)
    older = validate(int8, tmp_path / "older", None, FEW)
    for name in ("older", "new"):
        with pytest.raises(ParityError):
            validate(source, tmp_path / name, lambda: pytorch, FEW, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["older", "source"]
    assert Artifact.open(tmp_path / "older").manifest == older.manifest


def test_an_output_that_exists_fails_before_any_work(int8: Artifact, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    def never() -> Reference:
        raise AssertionError

    with pytest.raises(OutputError, match="exists already"):
        validate(int8, tmp_path / "out", never, FEW)


def test_a_changed_file_is_refused(int8: Artifact, tmp_path: Path) -> None:
    copy = validate(int8, tmp_path / "copy", None, FEW)
    file = copy.path / "onnx/model.onnx_data"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        validate(copy.path, None, None, FEW)
