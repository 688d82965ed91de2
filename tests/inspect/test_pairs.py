"""What `inspect` and `doctor` tell of an encoder-decoder."""

import json

from click.testing import CliRunner
from doctoring import CONTRACT

from deploykit.artifact import Artifact
from deploykit.cli.main import commands
from deploykit.doctor import doctor
from deploykit.inspect import inspect
from deploykit.memory import Load, estimate
from deploykit.outline import read_outline


def test_inspect_tells_of_both_graphs_and_of_the_source(pair: Artifact) -> None:
    found = json.loads(json.dumps(inspect(pair.path)))
    assert (found["context"], found["source"]) == (128, 128)
    assert found["heads"] == 4
    (fp32,) = found["precisions"]
    assert (fp32["file"], fp32["encoder"]) == ("onnx/decoder_model_merged.onnx", "onnx/encoder_model.onnx")
    assert fp32["bytes"] == pair.size_of("fp32")
    assert [graph["file"] for graph in found["graphs"]] == ["decoder_model_merged.onnx", "encoder_model.onnx"]
    assert "encoder_hidden_states" in {tensor["name"] for tensor in found["inputs"]}
    printed = CliRunner().invoke(commands, ["inspect", str(pair.path)])
    assert "onnx/decoder_model_merged.onnx and onnx/encoder_model.onnx" in printed.output


def test_doctor_looks_at_both_graphs_and_counts_both(pair: Artifact) -> None:
    report = doctor(pair.path, CONTRACT)
    found = [finding for section in report.sections for finding in section.findings]
    assert not [finding for finding in found if finding.level == "error"]
    weights = {finding.found.split(" in ")[1].split(",")[0] for finding in found if finding.what == "weights"}
    assert weights == {"decoder_model_merged.onnx_data", "encoder_model.onnx_data"}
    (fit,) = [finding for finding in found if finding.what == "memory needed"]
    assert "16 rows of 128 tokens and a source of 128" in fit.found


def test_an_encoder_adds_its_weights_and_its_sources_to_the_memory(pair: Artifact) -> None:
    decoder, encoder = (read_outline(file) for file in pair.graphs("fp32"))
    spec, load = pair.contract("fp32"), Load(rows=2, context=64, chunk=32, source=128)
    alone = estimate(decoder, spec, load, process=0)
    both = estimate(decoder, spec, load, process=0, encoder=encoder)
    own = estimate(encoder, spec, load, process=0)
    assert (both.weights, both.tables) == (alone.weights + own.weights, alone.tables + own.tables)
    assert both.weights > alone.weights
    assert both.activations > alone.activations
    assert both.cache == 2 * (3 * 64 + 2 * 128) * spec.cache_bytes_per_token()
