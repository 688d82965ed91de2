"""Quantized against fp32 on text: the figures, and when they count."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, append, constant

from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig, ValidateConfig
from deploykit.errors import ParityError, QualityError
from deploykit.quantize import quantize
from deploykit.validate import Reference, validate
from deploykit.validate.decoder import Decoder
from deploykit.validate.quality import CHUNK, WINDOW, Quality, Sample, Text, _scores, measure, summary, windows
from deploykit.validate.text import DEFAULT, read_text

FEW = ValidateConfig(tokens=300)


def of_ids(ids: list[int] | range, **options: Any) -> Text:
    return Text(name="text", samples=(Sample(label="ids", ids=np.array(ids)),), **options)


def figures(fp32: Decoder, other: Decoder, text: Text) -> Quality:
    return summary(measure(fp32, {"int8": other}, text).scores["int8"])


def decoders(artifact: Artifact) -> tuple[Decoder, Decoder]:
    spec = artifact.manifest.decoder
    return Decoder(artifact.graph("fp32"), spec), Decoder(artifact.graph("int8"), spec)


@pytest.fixture(scope="session")
def knowing(fused: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An int8 artifact whose model knows which tokens a text of a and b consists of: it looks trained."""
    folder = tmp_path_factory.mktemp("knowing")
    known = sorted(set(read_text(fused, _on_letters(folder)).ids.tolist()))

    def change(graph: ir.Graph) -> None:
        bias = np.zeros(fused.manifest.decoder.vocab_size, np.float32)
        bias[known] = 12
        append(graph, "logits", "Add", constant(graph, "knowledge", bias))

    return quantize(altered(fused, folder / "fp32", change), folder / "int8", QuantizeConfig(precision="int8"))


def _on_letters(folder: Path, **limits: Any) -> ValidateConfig:
    text = folder / "letters.txt"
    text.write_text("ab ba abba " * 60)
    return ValidateConfig(text=text, tokens=300, **limits)


def test_perplexity_is_that_of_pytorch(int8: Artifact, pytorch: Reference) -> None:
    text = read_text(int8, FEW)
    found = figures(*decoders(int8), text)
    losses = []
    for window in windows(text, int8.manifest.decoder.max_context):
        logits = pytorch(window.ids)[:-1].astype(np.float64)
        scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        losses += [-score[target] for score, target in zip(scores, window.ids[1:], strict=True)]
    assert found.tokens == len(losses)
    assert found.perplexity_fp32 == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    assert found.perplexity != found.perplexity_fp32
    assert 0 < found.kl < 0.1
    assert 0.5 < found.top1_agreement < 1


def test_divergence_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal((40, 700)).astype(np.float32) * 5
    other = one + rng.standard_normal((40, 700)).astype(np.float32) * 1e-2
    p, q = (
        part.astype(np.float64) - np.log(np.exp(part.astype(np.float64)).sum(-1, keepdims=True))
        for part in (one, other)
    )
    loss_fp32, loss, kl, agreed = _scores([one, other], np.arange(40))[0].sum(axis=-1)
    assert kl == pytest.approx((np.exp(p) * (p - q)).sum(), rel=1e-3)
    assert loss_fp32 == pytest.approx(-p[np.arange(40), np.arange(40)].sum(), rel=1e-6)
    assert loss == pytest.approx(-q[np.arange(40), np.arange(40)].sum(), rel=1e-6)
    assert agreed == (one.argmax(-1) == other.argmax(-1)).sum()


def test_a_model_costs_nothing_beside_itself(int8: Artifact) -> None:
    fp32, _ = decoders(int8)
    found = figures(fp32, fp32, read_text(int8, FEW))
    assert (found.kl, found.perplexity_loss, found.top1_agreement) == (0, 0, 1)


def test_random_weights_only_report(int8: Artifact) -> None:
    strict = ValidateConfig(tokens=300, max_kl=0, max_perplexity_loss=0)
    found = validate(int8, None, None, strict).manifest.parity["int8"]
    assert found["trained"] is False
    assert found["perplexity_fp32"] > int8.manifest.decoder.vocab_size
    assert found["kl"] > 0
    assert found["text"] == DEFAULT


def test_a_trained_model_within_its_limits_passes(knowing: Artifact, tmp_path: Path) -> None:
    figures = validate(knowing, None, None, _on_letters(tmp_path)).manifest.parity["int8"]
    assert figures["trained"] is True
    assert figures["perplexity_fp32"] < knowing.manifest.decoder.vocab_size / 4
    assert figures["kl"] <= 0.02
    assert figures["text"] == "letters.txt"


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_kl": 0.0}, r"int8 model: mean KL divergence from fp32 = .* > 0 in case 'text'.*--max-kl"),
        ({"max_perplexity_loss": 0.0}, r"growth of perplexity = .* > 0 .*--max-perplexity-loss"),
    ],
)
def test_each_limit_counts_for_a_trained_model(
    limits: dict[str, float], said: str, knowing: Artifact, tmp_path: Path
) -> None:
    # Worse by a little in both respects, so that a limit of nothing is passed.
    def change(graph: ir.Graph) -> None:
        append(graph, "logits", "Mul", constant(graph, "less", np.array(3, np.float32)))

    worse = altered(knowing, tmp_path / "worse", change, precision="int8")
    loose = {"max_kl": 100.0, "max_perplexity_loss": 100.0}
    validate(worse, None, None, _on_letters(tmp_path, **loose))
    with pytest.raises(ParityError, match=said):
        validate(worse, None, None, _on_letters(tmp_path, **{**loose, **limits}))


def test_a_broken_scale_is_refused_and_nothing_is_written(knowing: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        head = [node for node in graph if node.op_type == "MatMulNBits"][-1]
        scales = head.inputs[2]
        assert scales is not None
        assert scales.const_value is not None
        head.replace_input_with(2, constant(graph, "broken", scales.const_value.numpy() * 8))

    source = altered(knowing, tmp_path / "source", change, precision="int8")
    # No defect, so that nobody is sent to look for a layer.
    with pytest.raises(QualityError, match=r"^logits of the int8 model: mean KL .* > 0\.02 in case 'text'"):
        validate(source, tmp_path / "out", None, _on_letters(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters.txt", "source"]


@pytest.mark.parametrize("bias", [np.nan, np.inf])
def test_a_quantized_model_must_be_finite_even_untrained(bias: float, int8: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        append(graph, "logits", "Add", constant(graph, "bias", np.array(bias, np.float32)))

    source = altered(int8, tmp_path / "source", change, precision="int8")
    with pytest.raises(ParityError, match="logits of the int8 model: NaN or Inf in case 'text'"):
        figures(*decoders(source), read_text(source, FEW))


@pytest.mark.parametrize(("context", "longest"), [(2, 2), (40, 40), (10**6, WINDOW)])
def test_windows_fit_the_context_and_leave_nothing_out(context: int, longest: int) -> None:
    pieces = list(windows(of_ids(range(1010)), context))
    assert max(len(window.ids) for window in pieces) == longest
    assert [i for window in pieces for i in window.ids.tolist()] == list(range(1010))
    # Each window's first token follows on nothing.
    assert [window.start for window in pieces] == [window.ids[1] for window in pieces]


def test_a_last_token_alone_predicts_nothing() -> None:
    assert [window.ids.tolist() for window in windows(of_ids(range(21)), 10)] == [[*range(10)], [*range(10, 20)]]


def test_a_prefix_stands_before_every_window_and_is_not_scored() -> None:
    pieces = list(windows(of_ids(range(10, 30), prefix=(1, 2)), 12))
    assert [window.ids.tolist() for window in pieces] == [[1, 2, *range(10, 20)], [1, 2, *range(20, 30)]]
    assert [(window.start, window.first) for window in pieces] == [(0, 2), (10, 2)]


@pytest.mark.parametrize("kind", ["fused", "traced"])
@pytest.mark.parametrize("prefix", [(), (5,), (5, 6)])
def test_chunks_on_a_cache_give_what_one_run_gives(
    kind: str, prefix: tuple[int, ...], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact: Artifact = request.getfixturevalue(kind)
    fp32 = Decoder(artifact.graph("fp32"), artifact.manifest.decoder)
    text = of_ids(np.random.default_rng(1).integers(0, 300, 150).tolist(), prefix=prefix)
    whole = measure(fp32, {"int8": fp32}, text).scores["int8"].loss
    for chunk in (1, 3, 50, CHUNK):
        monkeypatch.setattr("deploykit.validate.quality.CHUNK", chunk)
        np.testing.assert_allclose(measure(fp32, {"int8": fp32}, text).scores["int8"].loss, whole, atol=1e-3)
    assert len(whole) == 150 if prefix else 148


def test_progress_ends_with_the_text(int8: Artifact) -> None:
    heard: list[tuple[Any, ...]] = []
    fp32, other = decoders(int8)
    text = of_ids([*range(200)] * 2)
    measure(fp32, {"int8": other}, text, progress=lambda *report: heard.append(report))
    assert heard[0] == ("measure quality", 0, 400, "ids")
    assert heard[-1] == ("measure quality", 400, 400)
    assert all(done < 400 for _, done, *_ in heard[:-1])
