"""Quality by part of the text: the parts make up the whole, and damage shows in the part it was done to."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, append, constant

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.validate.decoder import Decoder
from deploykit.validate.quality import Measured, Sample, Scores, Text, Window, measure, summary
from deploykit.validate.scripts import NO_LETTERS, script, scripts_of
from deploykit.validate.slices import FEWEST, Slice, depth_names, slices
from deploykit.validate.text import read_text

FEW = ValidateConfig(tokens=300)


def measured(artifact: Artifact, text: Text) -> Measured:
    spec = artifact.manifest.decoder
    return measure(Decoder(artifact.graph("fp32"), spec), {"int8": Decoder(artifact.graph("int8"), spec)}, text)


def by(kind: str, found: list[Slice]) -> dict[str, Slice]:
    return {part.name: part for part in found if part.by == kind}


def test_the_slices_of_each_kind_make_up_the_whole(int8: Artifact) -> None:
    text = read_text(int8, FEW)
    seen = measured(int8, text)
    scores = seen.scores["int8"]
    whole = summary(scores)
    found = slices(seen, scores, text, int8.manifest.decoder.vocab_size, FEW)
    assert by("text", found).keys() == {"English prose", "Python code"}
    assert {"Latin", NO_LETTERS} <= by("script", found).keys()
    assert [*by("position", found)] == depth_names()[:3]
    for kind in ("text", "script", "position"):
        parts = [part.quality for part in by(kind, found).values()]
        assert sum(part.tokens for part in parts) == whole.tokens == len(scores.kl)
        for value, total in (
            ([np.log(part.perplexity) for part in parts], np.log(whole.perplexity)),
            ([np.log(part.perplexity_fp32) for part in parts], np.log(whole.perplexity_fp32)),
            ([part.kl for part in parts], whole.kl),
            ([part.top1_agreement for part in parts], whole.top1_agreement),
        ):
            assert np.average(value, weights=[part.tokens for part in parts]) == pytest.approx(total)


def test_files_are_told_apart_by_their_labels(int8: Artifact, tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("Grüße aus dem Wald. " * 40)
    (tmp_path / "zh.txt").write_text("你好世界" * 60)
    config = ValidateConfig(text={"German": tmp_path / "de.txt", "Chinese": tmp_path / "zh.txt"}, tokens=400)
    text = read_text(int8, config)
    seen = measured(int8, text)
    found = slices(seen, seen.scores["int8"], text, int8.manifest.decoder.vocab_size, config)
    assert {name: part.quality.tokens > 100 for name, part in by("text", found).items()} == {
        "German": True,
        "Chinese": True,
    }
    assert by("script", found)["Han"].quality == by("text", found)["Chinese"].quality
    assert text.name == "de.txt, zh.txt"


@pytest.mark.parametrize("layer", [0, 1])
def test_damage_in_a_layer_shows_in_that_layer(layer: int, int8: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        # The product whose outputs are a layer's queries, keys and values.
        attention = [node for node in graph if node.op_type == "GroupQueryAttention"][layer]
        assert attention.inputs[0] is not None
        product = attention.inputs[0].producer()
        while product is not None and product.op_type != "MatMulNBits":
            assert product.inputs[0] is not None
            product = product.inputs[0].producer()
        assert product is not None
        scales = product.inputs[2]
        assert scales is not None
        assert scales.const_value is not None
        product.replace_input_with(2, constant(graph, "damaged", scales.const_value.numpy() * 1.2))

    text = read_text(int8, FEW)
    sound = measured(int8, text).caches["int8"].reshape(-1, 2)
    damaged = measured(altered(int8, tmp_path / "out", change, precision="int8"), text).caches["int8"].reshape(-1, 2)
    assert (damaged[layer] > 0.15).all()
    assert (sound < 0.1).all()
    np.testing.assert_allclose(damaged[:layer], sound[:layer], rtol=1e-3)


def test_damage_that_begins_at_a_position_shows_from_there(
    int8: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(graph: ir.Graph) -> None:
        mask = next(value for value in graph.inputs if value.name == "attention_mask")
        length = ir.node("ReduceSum", [mask], attributes={"keepdims": 0})
        late = ir.node("Greater", [length.outputs[0], constant(graph, "edge", np.array(64))])
        factor = ir.node("Cast", [late.outputs[0]], attributes={"to": ir.DataType.FLOAT})
        noise = np.random.default_rng(0).standard_normal(int8.manifest.decoder.vocab_size).astype(np.float32)
        added = ir.node("Mul", [factor.outputs[0], constant(graph, "noise", noise)])
        graph.extend([length, late, factor, added])
        append(graph, "logits", "Add", added.outputs[0])

    monkeypatch.setattr("deploykit.validate.quality.CHUNK", 16)
    text = read_text(int8, FEW)
    source = altered(int8, tmp_path / "out", change, precision="int8")
    seen = measured(source, text)
    found = by("position", slices(seen, seen.scores["int8"], text, source.manifest.decoder.vocab_size, FEW))
    assert found["64-255"].quality.kl > 0.2
    assert found["0-15"].quality.kl < 0.02
    assert found["16-63"].quality.kl < 0.02


def synthetic(counts: tuple[int, ...], losses: tuple[float, ...], noise: float = 0.0) -> tuple[Measured, Text]:
    """What was measured of texts of so many tokens, each with its own growth of loss."""
    samples = tuple(Sample(label=f"text {at}", ids=np.zeros(count + 1, np.int64)) for at, count in enumerate(counts))
    windows = tuple(Window(sample=at, start=1, first=1, ids=sample.ids) for at, sample in enumerate(samples))
    base = np.full(sum(counts), 2.0)
    growth = np.concatenate([np.full(count, loss) for count, loss in zip(counts, losses, strict=True)])
    growth = growth + noise * np.where(np.arange(len(growth)) % 2, 1, -1)
    scores = Scores(loss_fp32=base, loss=base + growth, kl=np.zeros_like(base), same=np.ones_like(base))
    return Measured(windows=windows, scores={"int8": scores}, caches={}), Text(name="texts", samples=samples)


def test_a_part_can_be_past_a_limit_that_the_whole_keeps() -> None:
    seen, text = synthetic((900, 100), (0.0, 0.1))
    found = by("text", slices(seen, seen.scores["int8"], text, 1000, ValidateConfig()))
    assert summary(seen.scores["int8"]).perplexity_loss < 0.02
    assert (found["text 0"].over, found["text 1"].over) == (False, True)


@pytest.mark.parametrize(("count", "judged"), [(FEWEST - 1, False), (FEWEST, True)])
def test_a_part_of_few_tokens_is_reported_and_not_judged(count: int, judged: bool) -> None:
    seen, text = synthetic((900, count), (0.0, 0.1))
    part = by("text", slices(seen, seen.scores["int8"], text, 1000, ValidateConfig()))["text 1"]
    assert (part.judged, part.over) == (judged, judged)
    assert part.quality.perplexity_loss == pytest.approx(np.exp(0.1) - 1)


def test_a_part_that_the_model_doesnt_know_is_not_judged() -> None:
    seen, text = synthetic((100,), (0.1,))
    part = by("text", slices(seen, seen.scores["int8"], text, 25, ValidateConfig()))["text 0"]
    assert (part.judged, part.over) == (False, False)


@pytest.mark.parametrize(("noise", "over"), [(0.01, True), (0.5, False)])
def test_chance_is_allowed_for(noise: float, over: bool) -> None:
    # Grows by 5 %, with a standard error of 0.1 % or of 5 %.
    seen, text = synthetic((100,), (np.log(1.05),), noise)
    part = by("text", slices(seen, seen.scores["int8"], text, 1000, ValidateConfig()))["text 0"]
    assert part.over is over
    assert part.quality.uncertainty == pytest.approx(noise / 10)


@pytest.mark.parametrize(
    ("letter", "name"),
    [("a", "Latin"), ("ü", "Latin"), ("好", "Han"), ("Ж", "Cyrillic"), ("λ", "Greek"), ("カ", "Kana"), ("あ", "Kana"),
     ("한", "Hangul"), ("ب", "Arabic"), ("ก", "Thai")],
)  # fmt: skip
def test_letters_have_a_script(letter: str, name: str) -> None:
    assert script(letter) == name


def test_a_token_is_of_its_first_letters_script() -> None:
    text = "ab 12好b!"
    assert scripts_of(text, [(0, 2), (2, 5), (5, 6), (5, 7), (7, 8), (8, 8)]) == (
        "Latin",
        NO_LETTERS,
        "Han",
        "Han",
        NO_LETTERS,
        NO_LETTERS,
    )
