"""Every family of encoder-decoders equal to PyTorch, in every way its graphs are called."""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file
from seq2seq_models import make_pair
from seq2seq_ways import EVERYWHERE, Graphs, at_once, greedy, numbers
from transformers import AutoModelForSeq2SeqLM
from transformers.models.t5.modeling_t5 import T5Attention

from deploykit.config import ConvertConfig
from deploykit.convert import convert, torch_reference
from deploykit.convert.seq2seq.description import Relative
from deploykit.convert.seq2seq.positions import buckets, halves, interleaved, pieces, stretched
from deploykit.errors import CheckpointError, ConfigError, DeploykitError, UnsupportedModelError
from deploykit.spec import TASK_TEXT2TEXT, EncoderSpec

CASES: dict[str, dict[str, Any]] = {
    "deploykit_transformer": {},
    "deploykit_transformer with norms first and three tables": {"norm_first": True, "share_embeddings": False},
    "t5": {"num_decoder_layers": 3, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
    "t5 gated, with a head of its own": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bart": {"decoder_layers": 3, "decoder_attention_heads": 2, "scale_embedding": True},
    "m2m_100": {},
    "marian": {"activation_function": "swish", "scale_embedding": True},
    "marian with two tables": {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 318},
    "mbart": {"forced_bos_token_id": 7},
    "mt5": {"d_kv": 24, "feed_forward_proj": "gated-silu"},
    "pegasus": {"encoder_ffn_dim": 80},
    "umt5": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
}

Opened = Callable[[str], Graphs]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    root = tmp_path_factory.mktemp("pairs")

    @cache
    def open_graphs(case: str) -> Graphs:
        checkpoint = make_pair(root / case, case.partition(" ")[0], scale=0.1, **CASES[case])
        return Graphs(checkpoint, convert(checkpoint, root / f"{case} converted"))

    return open_graphs


@pytest.mark.parametrize("way", EVERYWHERE, ids=lambda way: way.__name__)
@pytest.mark.parametrize("case", CASES)
def test_the_graphs_give_pytorchs_logits(opened: Opened, case: str, way: Callable[[Graphs], None]) -> None:
    way(opened(case))


@pytest.mark.parametrize("case", ["deploykit_transformer", "mbart", "mt5"])
def test_greedy_answers_are_those_of_generate(tmp_path: Path, case: str) -> None:
    """Among them a model that forces a token after the start."""
    checkpoint = make_pair(tmp_path / "checkpoint", case, scale=0.15, **CASES[case])
    graphs = Graphs(checkpoint, convert(checkpoint, tmp_path / "out"))
    sources = [numbers(seed, length) for seed, length in ((1, 12), (2, 3), (3, 20))]
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    for source, found in zip(sources, greedy(graphs, sources, 20), strict=True):
        ids = torch.from_numpy(source)[None]
        wanted = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_length=1 + 19)[
            0
        ].tolist()
        assert found[: len(wanted)] == wanted


@pytest.mark.parametrize(("case", "table"), [("mbart", "model.decoder.embed_tokens"), ("t5", "decoder.embed_tokens")])
def test_a_head_is_tied_to_what_both_stacks_share(tmp_path: Path, case: str, table: str) -> None:
    """A checkpoint may keep another table for its decoder beside the shared one; the head isn't that one's."""
    checkpoint = make_pair(tmp_path / "checkpoint", case)
    weights = load_file(checkpoint / "model.safetensors")
    (shared,) = [name for name in weights if name.endswith("shared.weight")]
    weights[f"{table}.weight"] = torch.randn(weights[shared].shape)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    at_once(Graphs(checkpoint, convert(checkpoint, tmp_path / "out")))


@pytest.mark.parametrize("case", ["m2m_100", "marian with two tables", "t5"])
def test_a_table_may_be_stored_under_the_heads_name_alone(tmp_path: Path, case: str) -> None:
    checkpoint = make_pair(tmp_path / "checkpoint", case.partition(" ")[0], **CASES[case])
    weights = load_file(checkpoint / "model.safetensors")
    (table,) = [name for name in weights if name.endswith(("shared.weight", "decoder.embed_tokens.weight"))]
    weights["lm_head.weight"] = weights.pop(table)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    at_once(Graphs(checkpoint, convert(checkpoint, tmp_path / "out")))


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize(("count", "farthest"), [(32, 128), (8, 20), (12, 777), (100, 64)])
def test_buckets_are_those_of_t5(count: int, farthest: int, both_ways: bool) -> None:
    distances = torch.arange(-farthest, farthest + 1 if both_ways else 1)
    wanted = T5Attention._relative_position_bucket(distances, both_ways, count, farthest)
    found = buckets(Relative(name="", buckets=count, farthest=farthest, both_ways=both_ways))
    np.testing.assert_array_equal(found, wanted.numpy())


def test_the_contract_says_what_the_graphs_take(tmp_path: Path) -> None:
    checkpoint = make_pair(tmp_path / "checkpoint", "mbart", forced_bos_token_id=7)
    artifact = convert(checkpoint, tmp_path / "out", ConvertConfig(max_context=100))
    manifest, spec = artifact.manifest, artifact.contract("fp32")
    assert (manifest.task, manifest.architecture) == (TASK_TEXT2TEXT, "MBartForConditionalGeneration")
    assert (spec.cache, spec.max_context, spec.eos_token_ids, spec.pad_token_id) == ("concatenated", 100, (1,), 2)
    assert spec.encoder == EncoderSpec(width=64, max_source=100, decoder_prompt=(1, 7))
    assert artifact.precisions() == ["fp32"]
    config = json.loads((artifact.path / "config.json").read_text())
    files = ("decoder_model_merged.onnx", "encoder_model.onnx")
    assert config["transformers.js_config"] == {"use_external_data_format": dict.fromkeys(files, 1)}
    assert "genai_config.json" not in manifest.files
    decoder, encoder = (ir.load(file).graph for file in artifact.graphs())
    assert [value.name for value in decoder.inputs] == [tensor.name for tensor in spec.inputs()]
    assert [value.name for value in decoder.outputs] == [tensor.name for tensor in spec.outputs()]
    assert [value.name for value in encoder.inputs] == [tensor.name for tensor in spec.encoder.inputs()]
    assert [value.name for value in encoder.outputs] == [tensor.name for tensor in spec.encoder.outputs()]


@pytest.mark.parametrize(("wanted", "length"), [(None, 128), (1000, 1000)])
def test_relative_positions_go_as_far_as_is_asked(tmp_path: Path, wanted: int | None, length: int) -> None:
    artifact = convert(make_pair(tmp_path / "t5", "t5"), tmp_path / "out", ConvertConfig(max_context=wanted))
    spec = artifact.contract()
    assert spec.encoder
    assert (spec.max_context, spec.encoder.max_source) == (length, length)


@pytest.mark.parametrize("family", ["deploykit_transformer", "m2m_100", "marian"])
def test_computed_positions_go_no_further_than_is_asked(tmp_path: Path, family: str) -> None:
    """Those of a config.json that lies would fill any memory."""
    checkpoint = make_pair(tmp_path / "checkpoint", family)
    edit(checkpoint / "config.json", max_position_embeddings=10**20)
    artifact = convert(checkpoint, tmp_path / "out", ConvertConfig(max_context=100))
    for file in artifact.graphs():
        assert ir.load(file).graph.initializers["positions"].shape == (100, 64)


def test_positions_are_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {table: table(np.arange(100), 10) for table in (interleaved, halves, partial(stretched, first=3))}
    monkeypatch.setattr("deploykit.convert.seq2seq.positions._PIECE", 70)
    for table, wanted in whole.items():
        found = list(pieces(table, 100, 10))
        assert len(found) == 15
        np.testing.assert_array_equal(np.concatenate(found), wanted)


def test_generation_config_is_made_where_there_is_none(tmp_path: Path) -> None:
    checkpoint = make_pair(tmp_path / "t5", "t5")
    (checkpoint / "generation_config.json").unlink()
    edit(checkpoint / "config.json", forced_bos_token_id=9)
    artifact = convert(checkpoint, tmp_path / "out")
    made = json.loads((artifact.path / "generation_config.json").read_text())
    assert (made["decoder_start_token_id"], made["forced_bos_token_id"], made["eos_token_id"]) == (2, 9, 1)
    encoder = artifact.contract().encoder
    assert encoder
    assert encoder.decoder_prompt == (2, 9)


REFUSED: dict[str, tuple[str, dict[str, Any], type[DeploykitError], str]] = {
    "another family": (
        "bart",
        {"model_type": "led"},
        UnsupportedModelError,
        r"no graphs, since .*'led' is not among bart",
    ),
    "an unknown field": (
        "bart",
        {"model_type": "mvp", "use_prompt": True},
        UnsupportedModelError,
        r"'mvp' is not among",
    ),
    "its activation": ("t5", {"dense_act_fn": "mish"}, UnsupportedModelError, r"'mish' has no fused form"),
    "uneven heads": ("bart", {"decoder_attention_heads": 5}, UnsupportedModelError, r"64 is no multiple of 5 heads"),
    "few buckets": (
        "t5",
        {"relative_attention_max_distance": 4},
        UnsupportedModelError,
        r"32 buckets .* distance of 4",
    ),
    "no start": (
        "t5",
        {"decoder_start_token_id": None, "bos_token_id": None},
        CheckpointError,
        r"neither .* has a decoder_start_token_id, .* add it",
    ),
    "a start past the vocabulary": (
        "t5",
        {"decoder_start_token_id": 400},
        CheckpointError,
        r"token 400, .* ends at 317",
    ),
    "two vocabularies": (
        "marian",
        {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 306},
        UnsupportedModelError,
        r"a vocabulary of 318 tokens and its answers one of 306, .* one tokenizer",
    ),
    "other sizes": ("t5", {"d_ff": 80}, CheckpointError, r"wi\.weight' has the shape \[96, 64\], .* \[80, 64\]"),
    "too few tensors": ("bart", {"decoder_layers": 3}, CheckpointError, r"no tensor 'model\.decoder\.layers\.2\."),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refuses_what_has_no_graphs(tmp_path: Path, kind: str) -> None:
    model_type, fields, error, said = REFUSED[kind]
    checkpoint = make_pair(tmp_path / "checkpoint", model_type)
    edit(checkpoint / "config.json", **fields)
    (checkpoint / "generation_config.json").unlink()
    with pytest.raises(error, match=said) as caught:
        convert(checkpoint, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_context_past_the_positions_is_refused(tmp_path: Path) -> None:
    checkpoint = make_pair(tmp_path / "checkpoint", "bart")
    with pytest.raises(ConfigError, match=r"max_context 129 exceeds the 128 positions"):
        convert(checkpoint, tmp_path / "out", ConvertConfig(max_context=129))


def test_tracing_is_refused(tmp_path: Path) -> None:
    checkpoint = make_pair(tmp_path / "checkpoint", "t5")
    with pytest.raises(UnsupportedModelError, match="never traced; use --method auto or fused"):
        convert(checkpoint, tmp_path / "out", ConvertConfig(method="traced"))


def test_the_reference_refuses_tokens_past_either_vocabulary(tmp_path: Path) -> None:
    apart: dict[str, Any] = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 306}
    reference = torch_reference(make_pair(tmp_path / "checkpoint", "marian", **apart))
    fine, past = np.array([1, 5]), np.array([1, 306])
    assert reference(fine, past).shape == (2, 306)
    with pytest.raises(CheckpointError, match=r"has 306 entries, too few for token 306"):
        reference(past, fine)


def edit(file: Path, **fields: Any) -> None:
    """Change fields of a JSON file; None takes one out."""
    data = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))
