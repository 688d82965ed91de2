"""Which weights keep more bits, and what is recorded of each."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, failing, replace_weight, without

from deploykit import graph
from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig
from deploykit.errors import ArtifactError, ConfigError
from deploykit.quantize import quantize
from deploykit.quantize.calibrate import CalibrationText
from deploykit.quantize.plan import named
from deploykit.quantize.sensitivity import Sensitivity, most_sensitive

TOKENS = 1024  # set in conftest.py
SMALL = ("o_proj.weight", "down_proj.weight")
FIRST = "model.layers.0.mlp.down_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


def made(source: Artifact, out: Path, **options: Any) -> tuple[Artifact, dict[str, Any]]:
    result = quantize(source, out, QuantizeConfig(precision="int4", **options))
    return result, dict(result.manifest.history[-1].result)


def eight(record: dict[str, Any]) -> set[str]:
    return {name for name, entry in record["weights"].items() if entry["bits"] == 8}


def test_named_weights_keep_8_bits(tied: Artifact, tmp_path: Path) -> None:
    result, record = made(tied, tmp_path / "out", more_bits=("layers.0", "down_proj"))
    names = record["weights"]
    wanted = {name for name in names if ".layers.0." in name or "down_proj" in name}
    assert eight(record) == wanted | {"model.embed_tokens.weight"}
    assert record["bits"] == {"4": len(names) - len(wanted) - 1, "8": len(wanted) + 1}
    assert result.manifest.history[-1].options["more_bits"] == ["layers.0", "down_proj"]
    # A named head too, whatever its own bits are.
    _, record = made(tied, tmp_path / "head", head_bits=4, more_bits=("embed_tokens",))
    assert eight(record) == {"model.embed_tokens.weight"}
    _, record = made(tied, tmp_path / "table", head_bits=4, table_bits=8, more_bits=("embed_tokens",))
    assert eight(record) == {"model.embed_tokens.weight"}


def test_parts_of_names_are_whole_words() -> None:
    names = ["model.layers.1.mlp.weight", "model.layers.10.mlp.weight", "/model/layers.1/MatMul"]
    assert named(names, ["layers.1"]) == {names[0], names[2]}
    assert named(names, ["mlp", "layers.10"]) == {names[0], names[1]}
    assert named(names, []) == frozenset()


@pytest.mark.parametrize("part", ["layers.7", "down", ""])
def test_a_part_that_no_weight_has_is_an_error_that_shows_names(part: str, tied: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"in none of the \d+ names of weights, such as model\.layers\.0"):
        made(tied, tmp_path / "out", more_bits=(part,))
    assert not (tmp_path / "out").exists()


def test_what_costs_most_for_its_size_wins_as_far_as_there_is_room() -> None:
    sizes = {"a": 10, "b": 60, "c": 20, "d": 10}
    costs = {"a": 0.1, "b": 2.4, "c": 0.6, "d": 0.2}
    assert most_sensitive(sizes, costs, 0) == frozenset()
    assert most_sensitive(sizes, costs, 30) == {"c", "d"}
    assert most_sensitive(sizes, costs, 60) == {"b"}
    assert most_sensitive(sizes, costs, 100) == set(sizes)


@pytest.mark.parametrize("rounding", ["rtn", "gptq"])
def test_the_weights_that_the_model_suffers_most_from_keep_8_bits(
    rounding: Any, tied: Artifact, tmp_path: Path
) -> None:
    before = made(tied, tmp_path / "before", rounding=rounding)[1]
    # Room for one of the two smallest kinds of this model's weights, 4096 and 6144 of 61,440.
    result, record = made(tied, tmp_path / "out", sensitive=11, rounding=rounding)
    costs = {name: entry.get("kl_alone") for name, entry in record["weights"].items()}
    assert costs.pop("model.embed_tokens.weight") is None
    fitting = {name: costs[name] / (4096 if "o_proj" in name else 6144) for name in costs if name.endswith(SMALL)}
    assert eight(record) - {"model.embed_tokens.weight"} == {max(fitting, key=lambda name: fitting[name])}
    assert result.manifest.history[-1].options["sensitive"] == 11
    assert record["bytes_after"] > before["bytes_after"]


def test_the_cost_of_a_weight_is_the_divergence_of_the_model_with_it(tied: Artifact) -> None:
    text = CalibrationText(name="few", windows=(np.arange(20),))
    whole = graph.load(tied.graph("fp32")).graph.initializers[DOWN].const_value
    assert whole is not None
    sensitivity = Sensitivity(tied, [DOWN], text)
    assert sensitivity.divergence(DOWN, whole.numpy()) == 0
    near, far = (sensitivity.divergence(DOWN, whole.numpy() * np.float32(factor)) for factor in (1.01, 1.1))
    # Quadratic in a small change.
    assert far == pytest.approx(100 * near, rel=0.3)


def test_the_record_says_what_each_weight_lost(tied: Artifact, tmp_path: Path) -> None:
    plain = made(tied, tmp_path / "plain")[1]
    assert "calibration" not in plain
    assert all(set(entry) == {"bits", "weight_error"} for entry in plain["weights"].values())
    assert all(0.05 < entry["weight_error"] < 0.1 for entry in plain["weights"].values() if entry["bits"] == 4)
    gptq = made(tied, tmp_path / "gptq", rounding="gptq")[1]
    assert gptq["calibration"] == {"text": "end of pydoc_data.topics", "tokens": TOKENS}
    for name, entry in gptq["weights"].items():
        # The table, which is the head as well, is looked up too: it is rounded to nearest.
        assert ("output_error" in entry) == (name != "model.embed_tokens.weight")
        if entry["bits"] == 4:
            assert entry["output_error"] < plain["weights"][name]["weight_error"]


def test_gptq_rounds_a_head_that_has_a_copy_of_its_own(tied: Artifact, tmp_path: Path) -> None:
    shared = made(tied, tmp_path / "shared", rounding="gptq", head_bits=4)[1]["weights"]["model.embed_tokens.weight"]
    result, record = made(tied, tmp_path / "out", rounding="gptq", head_bits=4, table_bits=8)
    head, table = (record["weights"][f"model.embed_tokens.weight{end}"] for end in ("", ".table"))
    assert (head["bits"], table["bits"]) == (4, 8)
    assert set(table) == {"bits", "weight_error"}
    assert set(shared) == {"bits", "weight_error"}
    assert head["output_error"] < shared["weight_error"]
    assert result.manifest.history[-1].options["table_bits"] == 8


def test_calibration_takes_the_end_of_a_file(tied: Artifact, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ä" * 200_000 + "print(name)\n", encoding="utf-8")
    record = made(tied, tmp_path / "out", rounding="gptq", calibration=text)[1]
    assert record["calibration"] == {"text": "end of text.txt", "tokens": TOKENS}
    other = made(tied, tmp_path / "other", rounding="gptq")[1]
    assert record["weights"] != other["weights"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"\xff\xfe\xff", "can't be read as UTF-8"),
        (b"", "0 tokens"),
        (b"too short " * 20, r"\d+ tokens, but at least 256"),
    ],
)
def test_calibration_text_that_is_none_is_an_error(
    content: bytes | None, problem: str, tied: Artifact, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(ConfigError, match=f"(?s){problem}.*--calibration"):
        made(tied, tmp_path / "out", rounding="gptq", calibration=text)
    assert not (tmp_path / "out").exists()


def test_without_a_tokenizer_gptq_takes_random_tokens(tied: Artifact, tmp_path: Path) -> None:
    record = made(without(tied, tmp_path / "bare", "tokenizer.json"), tmp_path / "out", rounding="gptq")[1]
    assert record["calibration"] == {"text": "random tokens", "tokens": TOKENS}


@pytest.mark.parametrize("rounding", ["hqq", "gptq"])
def test_the_same_options_give_the_same_bytes(rounding: Any, untied: Artifact, tmp_path: Path) -> None:
    names = ("onnx/model_q4.onnx", "onnx/model_q4.onnx_data")
    one, two = (made(untied, tmp_path / name, rounding=rounding, sensitive=10)[0] for name in ("one", "two"))
    assert [one.manifest.files[name] for name in names] == [two.manifest.files[name] for name in names]


def test_hessians_gathered_in_groups_are_those_gathered_at_once(
    untied: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(untied, tmp_path / "whole", rounding="gptq")[0]
    monkeypatch.setattr("deploykit.quantize.calibrate._BUDGET", 1)
    parts = made(untied, tmp_path / "parts", rounding="gptq")[0]
    assert whole.manifest.files["onnx/model_q4.onnx_data"] == parts.manifest.files["onnx/model_q4.onnx_data"]


@pytest.mark.parametrize("options", [{"sensitive": 5}, {"rounding": "gptq"}])
def test_a_graph_that_fails_on_the_text_is_one_line(options: dict[str, Any], untied: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.onnx: ONNX Runtime can't run it: [^\n]*$"):
        made(failing(untied, tmp_path / "source"), tmp_path / "out", **options)


def test_a_graph_without_logits_is_one_line(untied: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        next(value for value in graph.outputs if value.name == "logits").name = "scores"

    with pytest.raises(ArtifactError, match=r"model\.onnx: nothing computes 'logits' in it"):
        made(altered(untied, tmp_path / "source", change), tmp_path / "out", sensitive=5)


@pytest.mark.parametrize("options", [{"sensitive": 5}, {"rounding": "gptq"}])
def test_a_model_that_gives_nan_is_not_calibrated_on(options: dict[str, Any], tied: Artifact, tmp_path: Path) -> None:
    def damage(array: Any) -> Any:
        broken = array.copy()
        broken[0, 0] = np.nan
        return broken

    source = altered(tied, tmp_path / "source", lambda g: replace_weight(g, FIRST, damage))
    with pytest.raises(ArtifactError, match=r"NaN or Inf on the calibration text \(end of pydoc_data\.topics\)"):
        made(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sensitive": -1}, "sensitive must be 0 to 100"),
        ({"sensitive": float("nan")}, "sensitive must be 0 to 100"),
        ({"sensitive": 101}, "sensitive must be 0 to 100"),
        ({"rounding": "nearest"}, "rounding must be one of rtn, hqq, gptq"),
        ({"head_bits": 5}, "head_bits must be 4 or 8"),
        ({"table_bits": 16}, "table_bits must be 4 or 8"),
        ({"block_size": 48}, "block_size must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        QuantizeConfig(precision="int4", **options)


@pytest.mark.parametrize(
    ("precision", "option", "value"),
    [
        ("dynamic-int8", "rounding", "gptq"),
        ("fp16", "block_size", 128),
        ("fp16", "symmetric", False),
        ("int8", "more_bits", ("mlp",)),
        ("int8", "sensitive", 10.0),
        ("int8", "head_bits", 4),
        ("int8", "table_bits", 4),
        ("int4", "max_quality_loss", 0.1),
        ("auto", "rounding", "hqq"),
        ("auto", "sensitive", 5.0),
        ("int4", "calibration", Path("text")),
    ],
)
def test_options_that_would_change_nothing_are_refused(precision: Any, option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{option} .*; leave it out, or "):
        QuantizeConfig(precision=precision, **{option: value})
