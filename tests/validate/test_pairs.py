"""An encoder-decoder beside PyTorch, in every way that callers run its two graphs, and what its text is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from altering import altered, constant, replace_weight
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig, ValidateConfig
from deploykit.convert import torch_reference
from deploykit.errors import ConfigError, ParityError, QualityError
from deploykit.quantize import quantize
from deploykit.validate import Reference, against, bisect, validate
from deploykit.validate.cases import cases_for
from deploykit.validate.decoder import Decoder, FloatArray, IntArray
from deploykit.validate.pairs import answered, make_pair_rows
from deploykit.validate.parity import check_parity
from deploykit.validate.quality import measure, summary
from deploykit.validate.text import read_text

LINES = "Grüße, 10 \tprint(greet(number))\nfor number in range(3)\t你好 👋\n\nname\treturn\n"
FEW = ValidateConfig(tokens=64)


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model hardly ever ends an answer by itself."""
    monkeypatch.setattr("deploykit.validate.pairs.ANSWER", 12)


@pytest.fixture(scope="module")
def pytorch(tiny_pair: Path) -> Reference:
    run = torch_reference(tiny_pair)
    known: dict[bytes, FloatArray] = {}

    def reference(ids: IntArray, source: IntArray) -> FloatArray:
        # The same rows come up in test after test.
        key = ids.tobytes() + b"|" + source.tobytes()
        if key not in known:
            known[key] = np.asarray(run(ids, source))
        return known[key]

    return reference


@pytest.fixture(scope="module")
def int8(pair: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return quantize(pair, tmp_path_factory.mktemp("pairs") / "int8", QuantizeConfig(precision="int8"))


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.tsv"
    file.write_text(LINES)
    return file


def parity(artifact: Artifact, pytorch: Reference) -> dict[str, Any]:
    spec = artifact.manifest.decoder
    rows = make_pair_rows(read_text(artifact, FEW), spec)
    known = [pytorch(row, source) for row, source in zip(rows.all(), rows.sources, strict=True)]
    return check_parity(Decoder.of(artifact, "fp32"), rows, known, 1e-4)


def test_every_case_is_pytorchs(int8: Artifact, pytorch: Reference) -> None:
    result = validate(int8, None, lambda: pytorch, FEW)
    found = result.manifest.parity["fp32"]
    assert set(found["cases"]) == set(cases_for(int8.manifest.decoder))
    assert "cached steps, states fed again" in found["cases"]
    assert all(case["max_abs_error"] < 1e-4 and case["positions"] > 0 for case in found["cases"].values())
    assert result.manifest.parity["int8"]["kl"] > 0


def test_without_a_reference_the_graph_is_held_beside_itself(pair: Artifact) -> None:
    found = validate(pair, None, None, FEW).manifest.parity["fp32"]
    assert found["reference"] == "none"
    assert "prefill, ragged, left-padded" in found["cases"]


def ignore(name: str) -> Callable[[ir.Graph], None]:
    """Return a change after which a graph takes every token of a mask for a real one."""

    def change(graph: ir.Graph) -> None:
        mask = next(value for value in graph.inputs if value.name == name)
        nodes = [node for node in graph if mask in node.inputs]
        ones = ir.node("Max", [mask, constant(graph, "always", np.array(1, np.int64))])
        graph.append(ones)
        for node in nodes:
            for at, value in enumerate(node.inputs):
                if value is mask:
                    node.replace_input_with(at, ones.outputs[0])

    return change


@pytest.mark.parametrize(
    ("mask", "encoder", "case"),
    [
        ("attention_mask", True, "prefill, ragged, left-padded"),
        ("encoder_attention_mask", False, "prefill, ragged, left-padded"),
        ("decoder_attention_mask", False, "prefill, ragged, left-padded"),
    ],
)
def test_a_mask_that_is_not_read_is_named(
    pair: Artifact, pytorch: Reference, tmp_path: Path, mask: str, encoder: bool, case: str
) -> None:
    wrong = altered(pair, tmp_path / "wrong", ignore(mask), encoder=encoder)
    with pytest.raises(ParityError, match=case):
        parity(wrong, pytorch)


@pytest.mark.parametrize("encoder", [True, False])
def test_a_weight_that_is_not_the_checkpoints_is_found(
    pair: Artifact, pytorch: Reference, tmp_path: Path, encoder: bool
) -> None:
    def change(graph: ir.Graph) -> None:
        sizes = {name: value.const_value.size for name, value in graph.initializers.items() if value.const_value}
        replace_weight(graph, max(sizes, key=lambda name: sizes[name]), lambda weight: weight * np.float32(1.01))

    with pytest.raises(ParityError, match=r"max \|onnx - pytorch\| .* 'prefill'") as raised:
        parity(altered(pair, tmp_path / "wrong", change, encoder=encoder), pytorch)
    # There is no traced way for it, so nobody is sent there.
    assert "traced" not in str(raised.value)


def test_source_keys_that_are_made_again_are_found(pair: Artifact, pytorch: Reference, tmp_path: Path) -> None:
    """States that come again must not be read again: their keys would stand in the cache twice."""

    def change(graph: ir.Graph) -> None:
        states = next(value for value in graph.inputs if value.name == "encoder_hidden_states")
        (cut,) = [node for node in graph if node.op_type == "Slice" and node.inputs[0] is states]
        cut.outputs[0].replace_all_uses_with(states)
        graph.remove(cut, safe=True)

    with pytest.raises(ParityError, match="cached steps, states fed again"):
        parity(altered(pair, tmp_path / "wrong", change), pytorch)


def test_pairs_are_read_as_the_tokenizer_and_the_model_have_them(pair: Artifact, tiny_pair: Path, lines: Path) -> None:
    text = read_text(pair, ValidateConfig(text={"de": lines}, tokens=64))
    tokenizer = AutoTokenizer.from_pretrained(tiny_pair)
    wanted = [line.split("\t") for line in LINES.splitlines() if line]
    assert [sample.label for sample in text.samples] == ["de"] * 3
    assert text.prefix == (2,)
    for sample, (source, answer) in zip(text.samples, wanted, strict=True):
        assert sample.source is not None
        assert sample.source.tolist() == tokenizer(source)["input_ids"]
        assert sample.ids.tolist() == [*tokenizer(answer, add_special_tokens=False)["input_ids"], 1]
        assert len(sample.scripts) == len(sample.ids)
    assert "Han" in text.samples[1].scripts


def test_lines_end_where_files_say_so_and_nowhere_else(pair: Artifact, tiny_pair: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("\ufeffname\treturn\r\none\u2028two\tthree\x0cfour\r\n".encode())
    text = read_text(pair, ValidateConfig(text=tmp_path / "text"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_pair)
    sources = [sample.source.tolist() for sample in text.samples if sample.source is not None]
    assert sources == [tokenizer(source)["input_ids"] for source in ("name", "one\u2028two")]


def test_a_source_that_is_too_long_keeps_its_end(pair: Artifact, tmp_path: Path) -> None:
    (tmp_path / "long.tsv").write_text("name " * 400 + "\tname\n")
    (sample,) = read_text(pair, ValidateConfig(text=tmp_path / "long.tsv")).samples
    assert sample.source is not None
    assert (len(sample.source), sample.source[-1]) == (128, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\nc\n", r"line 1 has a tab and line 2 has none"),
        ("a\n\nb\tc\n", r"line 3 has a tab and line 1 has none"),
        ("\n \n", "no line in it"),
    ],
)
def test_a_text_that_is_no_pairs_is_refused(pair: Artifact, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "text").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_text(pair, ValidateConfig(text=tmp_path / "text"))


def test_sources_alone_are_answered_as_pytorch_does(pair: Artifact, tiny_pair: Path, tmp_path: Path) -> None:
    (tmp_path / "sources").write_text("for number in range\nGrüße\nreturn name, number, greet(10) and print it\n")
    text = read_text(pair, ValidateConfig(text=tmp_path / "sources", tokens=200))
    found = answered(text, Decoder.of(pair, "fp32"), 200)
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_pair).eval()
    assert found.own
    assert len(found.samples) == 3
    for sample in found.samples:
        with torch.inference_mode():
            source = torch.from_numpy(np.asarray(sample.source))[None]
            wanted = model.generate(input_ids=source, max_new_tokens=12, do_sample=False, num_beams=1)[0, 1:]
        assert sample.ids.tolist() == wanted.tolist()


def test_perplexity_is_that_of_the_answers(pair: Artifact, int8: Artifact, pytorch: Reference, lines: Path) -> None:
    text = read_text(pair, ValidateConfig(text=lines, tokens=64))
    fp32 = Decoder.of(pair, "fp32")
    measured = measure(fp32, {"int8": Decoder.of(int8, "int8")}, text)
    losses = []
    for sample in text.samples:
        logits = pytorch(np.r_[text.prefix, sample.ids][:-1].astype(np.int64), np.asarray(sample.source))
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        losses += (np.log(np.exp(shifted).sum(axis=-1)) - shifted[np.arange(len(logits)), sample.ids]).tolist()
    quality = summary(measured.scores["int8"])
    assert quality.tokens == len(losses) == sum(len(sample.ids) for sample in text.samples)
    assert quality.perplexity_fp32 == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    assert quality.kl > 0


def test_a_model_that_is_sure_of_its_own_answers_is_judged(int8: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    result = validate(int8, None, None, FEW).manifest.parity["int8"]
    assert not result["trained"]
    monkeypatch.setattr("deploykit.validate.quality.SURE", 1.01 * result["perplexity_fp32"])
    with pytest.raises(QualityError, match="mean KL divergence from fp32"):
        validate(int8, None, None, ValidateConfig(tokens=64, max_kl=1e-9))


def test_the_report_tells_pairs_sources_and_both_caches(int8: Artifact, lines: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = validate(int8, tmp_path / "out", None, ValidateConfig(text=lines, tokens=64, report=page))
    report = json.loads((result.path / "report.json").read_text())
    assert report["model"]["max_source"] == 128
    assert report["text"]["own"] is False
    assert report["text"]["samples"][0]["pairs"] == 3
    layers = report["precisions"]["int8"]["layers"]
    assert len(layers) == len(int8.manifest.decoder.layers)
    assert all(set(layer) == {"layer", "key", "value", "source_key", "source_value"} for layer in layers)
    assert all(0 < layer[part] < 0.2 for layer in layers for part in ("source_key", "source_value"))
    html = page.read_text()
    assert "3 pairs, " in html
    assert "Error by layer, of the source" in html


def test_what_follows_a_decoder_alone_is_refused(pair: Artifact) -> None:
    with pytest.raises(ConfigError, match=r"--bisect.*encoder"):
        bisect(pair, lambda _: {})
    with pytest.raises(ConfigError, match=r"--against.*encoder"):
        against(pair, "onnxruntime")
