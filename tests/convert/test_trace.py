"""Traced graphs of models that have no fused form, and those that can't be traced."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from checkpoints import make_checkpoint
from safetensors.torch import load_file, save_file
from small_models import small
from transformers import AutoModelForCausalLM

from deploykit.config import ConvertConfig
from deploykit.convert import convert, torch_reference
from deploykit.convert.frequencies import hold_frequencies
from deploykit.convert.rows import keep_last_rows
from deploykit.convert.spelling import Spelling, translations
from deploykit.errors import CheckpointError, ConfigError, UnsupportedModelError
from deploykit.validate.decoder import Decoder

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
}
MODELS: dict[str, dict[str, Any]] = {
    # A window that is shorter than the rows: the mask must apply it, the cache must not be cropped.
    "mistral": {**SMALL, "sliding_window": 6},
    # Positions through a bias of the scores, and no position input.
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "seq_length": 128},
}


@pytest.mark.parametrize("model_type", MODELS)
def test_traced_equals_pytorch(tmp_path: Path, model_type: str, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", model_type, **MODELS[model_type])
    capfd.readouterr()
    artifact = convert(checkpoint, tmp_path / "out", ConvertConfig(method="traced"))
    assert capfd.readouterr() == ("", "")
    spec = artifact.manifest.decoder
    assert (spec.cache, spec.logits_to_keep) == ("concatenated", True)
    assert artifact.manifest.history[0].result["method"] == "traced"
    run, reference = Decoder(artifact.graph(), spec), torch_reference(checkpoint)
    ids = np.arange(10, 30)
    wanted = reference(ids)
    lengths, width = (14, 9, 1), 14
    rows = np.stack([np.r_[np.ones(width - n, np.int64), ids[:n]] for n in lengths])
    mask = np.stack([np.arange(width) >= width - n for n in lengths]).astype(np.int64)
    logits, cache = run.run(rows, mask)
    for step in range(4):
        for row, n in enumerate(lengths):
            gap = np.abs(logits[row, -1] - wanted[n + step - 1]).max() / np.abs(wanted).max()
            assert gap <= 1e-5, (n, step)
        mask = np.c_[mask, np.ones(len(lengths), np.int64)]
        logits, cache = run.run(np.array([[ids[n + step]] for n in lengths]), mask, cache)


def test_traced_graph_holds_no_notes_of_the_exporter(trio: Any) -> None:
    model = ir.load(trio.traced.file)
    assert not any(node.metadata_props or node.doc_string for node in model.graph)
    assert b".py" not in trio.traced.file.read_bytes()
    for value, tensor in zip(model.graph.outputs, trio.traced.spec.outputs(), strict=True):
        assert value.shape is not None
        assert tuple(a if isinstance(a, int) else a.value for a in value.shape) == tensor.shape


@pytest.mark.parametrize("rows", [None, 0, 1, 3, 6, 99])
def test_traced_graph_gives_the_last_rows_that_are_asked_for(trio: Any, rows: int | None) -> None:
    run, new = ort.InferenceSession(trio.traced.file, quiet_options()), 6
    feeds = {"input_ids": np.arange(2 * new).reshape(2, new), "attention_mask": np.ones((2, new), np.int64)}
    feeds |= {
        tensor.name: np.zeros([2 if axis == "batch_size" else 0 if isinstance(axis, str) else axis for axis in shape])
        for tensor in trio.traced.spec.past()
        for shape in [tensor.shape]
    }
    feeds = {name: np.asarray(value, np.float32) if "past" in name else value for name, value in feeds.items()}
    (whole,) = run.run(["logits"], {**feeds, "num_logits_to_keep": np.array(0)})
    assert whole.shape[1] == new
    (found,) = run.run(["logits"], feeds if rows is None else {**feeds, "num_logits_to_keep": np.array(rows)})
    kept = min(rows or new, new)
    np.testing.assert_allclose(found, whole[:, -kept:], rtol=0, atol=1e-6 * np.abs(whole).max())


def quiet_options() -> Any:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return options


def head(*tail: tuple[str, list[int]], hidden: int = 3, twice: bool = False) -> ir.Graph:
    """A product of hidden states with a weight, and operations (kind, shape of the constant beside) after it."""
    x = ir.val("hidden", dtype=ir.DataType.FLOAT, shape=("B", "S", 8)[-hidden:])
    mask = ir.val("attention_mask", dtype=ir.DataType.INT64, shape=["B", "T"])
    tape = ir.tape.Tape()
    value = tape.op("MatMul", [x, tape.initializer(ir.tensor(np.ones((8, 5), np.float32), name="weight"))])
    extra = [value] if twice else []
    for number, (kind, shape) in enumerate(tail):
        beside = [tape.initializer(ir.tensor(np.ones(shape, np.float32), name=f"c{number}"))] if kind != "Tanh" else []
        value = tape.op(kind, [value, *beside])
    value.name = "logits"
    return ir.Graph([x, mask], [value, *extra], nodes=tape.nodes, initializers=tape.initializers)


@pytest.mark.parametrize(
    ("graph", "can"),
    [
        (head(), True),
        (head(("Add", [5])), True),
        (head(("Div", []), ("Tanh", []), ("Mul", [1])), True),
        (head(("Add", [1, 1, 5])), True),
        (head(("Add", [1, 3, 5])), False),
        (head(("ReduceMax", [1])), False),
        (head(hidden=2), False),
        (head(("Tanh", []), twice=True), False),
    ],
)
def test_rows_are_cut_only_where_each_stands_alone(graph: ir.Graph, can: bool) -> None:
    before = [node.op_type for node in graph]
    assert keep_last_rows(graph) is can
    kinds = [node.op_type for node in graph]
    assert kinds == (["Neg", "Reshape", "Slice", *before] if can else before)
    assert [value.name for value in graph.inputs] == ["hidden", "attention_mask", *["num_logits_to_keep"] * can]


class Spelt(torch.nn.Module):
    """What the exporter alone can't write: axes of complex numbers, and the inverse error function."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with Spelling():
            turned = torch.view_as_complex(x.reshape(3, 4, 2))
            turned = turned.unsqueeze(-1)[:, None] * turned[:, None].unsqueeze(3)
        return torch.view_as_real(turned), torch.erfinv(x)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the exporter's own
def test_what_the_exporter_lacks_is_spelt_otherwise() -> None:
    x = torch.linspace(-0.9999, 0.9999, 24)
    program = torch.onnx.export(
        Spelt().eval(), (x,), dynamo=True, custom_translation_table=translations(), verbose=False
    )
    assert program is not None
    session = ort.InferenceSession(program.model_proto.SerializeToString(), quiet_options())
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    turned = torch.view_as_complex(x.reshape(3, 4, 2))
    wanted = torch.view_as_real(turned[:, None, :, None] * turned[:, None, :, None])
    np.testing.assert_allclose(found[0], wanted, atol=1e-6)
    np.testing.assert_allclose(found[1], torch.erfinv(x), rtol=1e-5)


class Biased(torch.nn.Module):
    """The end of a table of biases, cut as MPT does it: its axis of 1 from a place that is computed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table, rows = torch.arange(16.0).reshape(2, 1, 8), x.shape[0]
        with Spelling():
            return x + table[:, max(0, 1 - 2 * rows) :, max(0, 8 - rows) :]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the exporter's own
def test_an_axis_of_1_may_be_cut_at_a_computed_place() -> None:
    free = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(Biased().eval(), (torch.ones(3, 1),), dynamo=True, dynamic_shapes=free, verbose=False)
    assert program is not None
    session = ort.InferenceSession(program.model_proto.SerializeToString(), quiet_options())
    for rows in (2, 5):
        x = torch.ones(rows, 1)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_array_equal(found[0], Biased()(x))


LENGTHENED: dict[str, dict[str, Any]] = {
    "llama": {"rope_type": "dynamic", "factor": 2.0},
    "phi3": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "factor": 8.0,
    },
}
LIMITS = {"llama": {"max_position_embeddings": 32}, "phi3": {"original_max_position_embeddings": 16}}


@pytest.mark.parametrize("model_type", LENGTHENED)
def lengthened(folder: Path, model_type: str) -> Path:
    parameters = {"rope_theta": 1e4, **LENGTHENED[model_type]}
    return make_checkpoint(folder, model_type, rope_parameters=parameters, **LIMITS[model_type])


@pytest.mark.parametrize("model_type", LENGTHENED)
def test_frequencies_that_go_by_the_longest_row_are_held_at_the_first(tmp_path: Path, model_type: str) -> None:
    checkpoint = lengthened(tmp_path / "checkpoint", model_type)
    (limit,) = LIMITS[model_type].values()
    positions = torch.arange(2 * limit)[None]
    rotary = AutoModelForCausalLM.from_pretrained(checkpoint).model.rotary_emb
    short = rotary(torch.zeros(1), positions[:, :limit])[0]
    assert not torch.allclose(rotary(torch.zeros(1), positions)[0][:, :limit], short)
    held = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert hold_frequencies(held) == limit
    assert torch.equal(held.model.rotary_emb(torch.zeros(1), positions)[0][:, :limit], short)


def test_a_context_past_the_held_frequencies_is_refused(tmp_path: Path) -> None:
    checkpoint = lengthened(tmp_path / "checkpoint", "phi3")
    with pytest.raises(ConfigError, match=r"max_context 100 exceeds the 16 tokens .*; pass --max-context 16 or less"):
        convert(checkpoint, tmp_path / "out", ConvertConfig(method="traced", max_context=100))


def test_attention_that_turns_sparse_in_long_rows_is_refused(tmp_path: Path) -> None:
    sizes = {**small("big_bird"), "attention_type": "block_sparse"}
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "big_bird", **sizes)
    with pytest.raises(UnsupportedModelError, match=r"set attention_type to original_full in config\.json") as caught:
        convert(checkpoint, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_recurrent_state_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "mamba", hidden_size=64, num_hidden_layers=1)
    with pytest.raises(
        UnsupportedModelError, match=r"mamba can't be traced: it keeps a recurrent state .* only keys and values"
    ) as caught:
        convert(checkpoint, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def lose(weights: dict[str, Any], config: dict[str, Any]) -> None:
    del weights["model.layers.1.mlp.down_proj.weight"]


def shrink(weights: dict[str, Any], config: dict[str, Any]) -> None:
    config["intermediate_size"] = 80


def spoil(weights: dict[str, Any], config: dict[str, Any]) -> None:
    weights["model.layers.1.mlp.down_proj.weight"][2, 3] = float("nan")


@pytest.mark.parametrize(("damage", "said"), [(lose, "no tensor"), (shrink, "has the shape"), (spoil, "holds NaN")])
def test_names_the_tensor_that_is_wrong(tmp_path: Path, damage: Any, said: str) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "mistral", **SMALL)
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    damage(weights, config)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said) as caught:
        convert(folder, tmp_path / "out", ConvertConfig(method="traced"))
    assert "_proj" in str(caught.value)
    assert "\n" not in str(caught.value)
