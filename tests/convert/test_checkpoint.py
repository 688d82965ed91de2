"""Checkpoints that can't be converted: each is refused in one line that says what, where and the remedy."""

import json
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file
from transformers import Gemma3nTextConfig, Gemma4TextConfig

from deploykit.config import ConvertConfig
from deploykit.convert import convert, torch_reference
from deploykit.convert.checkpoint import open_checkpoint
from deploykit.convert.sizes import check_raw, check_sizes
from deploykit.errors import CheckpointError, ConfigError, UnsupportedModelError
from deploykit.validate.decoder import Decoder


@pytest.fixture
def folder(tmp_path: Path, tiny_llama: Path) -> Path:
    """A copy of a good checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "checkpoint"))


EMBEDDING, OUT = "model.embed_tokens.weight", "model.layers.1.self_attn.o_proj.weight"


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def change(folder: Path, name: str, function: Callable[[Any], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name] = function(weights[name])
    save_file(weights, folder / "model.safetensors")


def spoil(value: float) -> Callable[[Any], Any]:
    def function(tensor: Any) -> Any:
        tensor.flat[7] = value
        return tensor

    return function


def shard(folder: Path, places: dict[str, str] | None = None) -> None:
    """Split the weights in two files and an index, in which `places` may lie."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {name: file for file, part in halves.items() for name in part} | (places or {})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "b.safetensors").unlink()


def add_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    token = {"id": 5000, "content": "<far>", "special": True}
    data["added_tokens"].append(token | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False))
    file.write_text(json.dumps(data))


def only_pickle(folder: Path) -> None:
    torch.save({"x": torch.ones(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def store(folder: Path, name: str, make: Callable[[Any], Any]) -> None:
    """Put what `make` makes of a tensor under `name`."""
    weights = load_torch_file(folder / "model.safetensors")
    weights[name] = make(weights.get(name))
    save_torch_file(weights, folder / "model.safetensors")


def stretch_pickle(folder: Path) -> None:
    """Make a pickle whose tensor repeats one stored number: read, it would be as large as it says."""
    torch.save({"x": torch.ones(1).expand(64, 64)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pad(file: Path, size: int) -> None:
    with file.open("ab") as stream:
        stream.truncate(size)


def rename_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["other"] = weights.pop(OUT)
    save_file(weights, folder / "model.safetensors")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, r"checkpoint: no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(), r"no config\.json in it"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config\.json: can't be read as JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), r"a JSON list, not an object"),
    "nested config": (lambda f: (f / "config.json").write_text("[" * 10**5), r"config\.json: can't be read"),
    "no model type": (lambda f: (f / "config.json").write_text("{}"), r"has no 'model_type'"),
    "a value of another type": (lambda f: edit(f / "config.json", hidden_size="big"), r"a value in it can't be: .*big"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"no model\.safetensors or .*index"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), r"0 bytes with a header of 0"),
    "only a pickle": (only_pickle, r"only a pickle \(pytorch_model\.bin\).*--allow-pickle"),
    "a tensor is missing": (rename_a_tensor, rf"no tensor '{OUT}' among its 21"),
    "a tensor of another shape": (
        lambda f: change(f, OUT, lambda t: np.ascontiguousarray(t[:, :32])),
        rf"'{OUT}' has the shape \[64, 32\], but config\.json implies \[64, 64\]",
    ),
    "NaN": (lambda f: change(f, OUT, spoil(np.nan)), rf"tensor '{OUT}' holds nan at element 7"),
    "infinity": (lambda f: change(f, EMBEDDING, spoil(-np.inf)), rf"tensor '{EMBEDDING}' holds -inf at element 7"),
    "integers": (lambda f: change(f, OUT, lambda t: t.astype(np.int8)), rf"'{OUT}' is of type I8"),
    "a shard is missing": (lose_a_shard, r"the shard b\.safetensors is missing"),
    "a shard outside": (lambda f: shard(f, {OUT: "../b.safetensors"}), r"shard '\.\./b\.safetensors'.*outside"),
    "an absolute shard": (lambda f: shard(f, {OUT: "/etc/passwd"}), r"shard '/etc/passwd'.*outside"),
    "a shard without its tensor": (
        lambda f: shard(f, {"lm_head.weight": "b.safetensors"}),
        r"says that b\.safetensors holds",
    ),
    "a tokenizer that doesn't fit": (add_token, r"ids up to 318, but the embedding has only 318 rows"),
    "a broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), r"can't be read as a tokenizer"),
    "an end id past the vocabulary": (
        lambda f: edit(f / "generation_config.json", eos_token_id=[1, 318]),
        r"eos_token_id is 318, but the vocabulary ends at 317",
    ),
    "sizes past all memory": (lambda f: edit(f / "config.json", hidden_size=2**40), r"implies \[318, 1099511627776\]"),
    "fp8": (
        lambda f: store(f, OUT, lambda t: t.to(torch.float8_e4m3fn)),
        rf"'{OUT}' \(F8_E4M3\) shows that the weights are quantized already; convert the checkpoint it was made from",
    ),
    "fp8 with scales": (
        lambda f: store(f, f"{OUT}_scale_inv", lambda t: torch.ones(1)),
        rf"'{OUT}_scale_inv' \(F32\) shows that the weights are quantized already",
    ),
    "packed weights": (
        lambda f: store(f, OUT.replace("weight", "qweight"), lambda t: torch.ones(4, dtype=torch.int32)),
        r"o_proj\.qweight' \(I32\) shows that the weights are quantized already",
    ),
    "more weights than stored": (stretch_pickle, r"claims 4096 elements, more than are stored"),
    "settings past all reason": (lambda f: pad(f / "config.json", 65 << 20), r"config\.json: \d+ bytes, more than"),
}


@pytest.mark.parametrize("damage", BAD)
def test_refuses_what_is_damaged(folder: Path, damage: str) -> None:
    function, said = BAD[damage]
    function(folder)
    with pytest.raises(CheckpointError, match=said) as caught:
        convert(folder, folder.parent / "out", ConvertConfig(allow_pickle=damage == "more weights than stored"))
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.parent.iterdir()] in ([], ["checkpoint"])


ABSURD: dict[str, list[Any]] = {
    "num_hidden_layers": [10**9, 0, -1, 1.5, "2", None, True, [1]],
    "hidden_size": [2**40, 0, -64, float("nan"), "64", 63, 4],
    "vocab_size": [2**62, 0, -5, 1, 317, 10**6],
    "num_attention_heads": [10**9, 0, -4, 5, 3],
    "num_key_value_heads": [10**9, 0, -1, 3],
    "head_dim": [2**40, 0, -1, 15, 24],
    "intermediate_size": [2**50, 0, -3],
    "rms_norm_eps": [float("nan"), "x"],
    "max_position_embeddings": [2**60, 0, -1, "x"],
    "rope_parameters": [{"rope_type": "zig"}, {"rope_type": "default", "rope_theta": float("nan")}, "x"],
    "num_labels": [10**9],
    "hidden_act": ["zap"],
    "quantization_config": ["awq", {"quant_method": "gptq"}, {"quant_method": "mxfp4"}, {"bits": 4}],
}


@pytest.mark.parametrize("name", ABSURD)
def test_refuses_absurd_sizes_before_they_cost_anything(folder: Path, name: str) -> None:
    whole = (folder / "config.json").read_text()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for value in ABSURD[name]:
        (folder / "config.json").write_text(whole)
        edit(folder / "config.json", **{name: value})
        with pytest.raises((CheckpointError, ConfigError)) as caught:
            convert(folder, folder.parent / "out")
        assert "\n" not in str(caught.value), value
        assert len(str(caught.value)) < 500 + len(str(folder)), value
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("said", [10**6, 2**31, 2**62])
def test_a_traced_model_is_not_made_larger_than_its_weights(tmp_path: Path, said: int) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4}
    folder = make_checkpoint(tmp_path / "c", "stablelm", **sizes, intermediate_size=96, max_position_embeddings=64)
    edit(folder / "config.json", intermediate_size=said)
    with pytest.raises(CheckpointError, match=r"implies \d+ weights, but the files hold|overflowed"):
        torch_reference(folder, ConvertConfig())


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_tied_weights_are_found_under_either_name(tmp_path: Path, tiny_qwen2: Path, kept: str) -> None:
    folder = Path(shutil.copytree(tiny_qwen2, tmp_path / "checkpoint"))
    weights = load_file(folder / "model.safetensors")
    weights[kept] = weights.pop(EMBEDDING)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ids = np.arange(3, 12)
    wanted = torch_reference(tiny_qwen2, ConvertConfig())(ids)
    np.testing.assert_array_equal(torch_reference(folder, ConvertConfig())(ids), wanted)
    artifact = convert(folder, tmp_path / "out", ConvertConfig(method="fused"))
    decoder = Decoder(artifact.graph(), artifact.manifest.decoder)
    found = decoder.run(ids[None], np.ones((1, len(ids)), np.int64))[0][0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"model_type": "zebra"}, r"'zebra' is unknown; .*gpt2, .*llama, .* traced"),
    "own code": ({"model_type": "zebra", "auto_map": {"AutoConfig": "x.Y"}}, r"needs code .*--trust-remote-code"),
    "encoder of an encoder-decoder": (
        {"model_type": "t5", "architectures": ["T5EncoderModel"]},
        r"T5EncoderModel is no encoder-decoder that writes text",
    ),
    "classifier": (
        {"architectures": ["LlamaForSequenceClassification"]},
        r"no causal language model; .* and encoder-decoders",
    ),
    "encoder": ({"model_type": "vit", "architectures": ["ViTModel"]}, r"ViTModel is no causal language model"),
    "multimodal": (
        {"model_type": "mllama", "architectures": None, "vocab_size": None},
        r"mllama has no vocabulary of its own",
    ),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, r"quantized already \(gptq\)"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_refuses_what_it_can_not_convert(folder: Path, kind: str) -> None:
    fields, said = UNSUPPORTED[kind]
    edit(folder / "config.json", **fields)
    with pytest.raises(UnsupportedModelError, match=said):
        open_checkpoint(folder, ConvertConfig())


def test_never_runs_code_of_a_checkpoint(folder: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Config: pass\n")
    edit(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(UnsupportedModelError):
        convert(folder, folder.parent / "out")
    assert not (folder / "ran").exists()


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_never_executes_a_pickle(folder: Path, allow: bool, zipped: bool) -> None:
    (folder / "model.safetensors").unlink()
    target, bomb = folder / "pytorch_model.bin", {"x": Bomb(folder / "ran")}
    if zipped:
        torch.save(bomb, target)
    else:
        target.write_bytes(pickle.dumps(bomb))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin") as caught:
        convert(folder, folder.parent / "out", ConvertConfig(allow_pickle=allow))
    assert "\n" not in str(caught.value)
    assert not (folder / "ran").exists()


def test_takes_a_context_within_the_checkpoints_own(folder: Path) -> None:
    assert convert(folder, folder.parent / "a").manifest.decoder.max_context == 128
    assert convert(folder, folder.parent / "b", ConvertConfig(max_context=64)).manifest.decoder.max_context == 64
    with pytest.raises(ConfigError, match=r"max_context 129 exceeds the 128 positions"):
        convert(folder, folder.parent / "c", ConvertConfig(max_context=129))
    edit(folder / "config.json", max_position_embeddings=2**40)
    with pytest.raises(ConfigError, match=r"1099511627776 tokens is too long; pass --max-context"):
        convert(folder, folder.parent / "d")


@pytest.fixture
def hub(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds `someone/tiny`, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "blobs").mkdir()
    (repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
    for file in folder.iterdir():
        shutil.copyfile(file, repository / "blobs" / file.name)
        (repository / "snapshots" / ("a" * 40) / file.name).symlink_to(f"../../blobs/{file.name}")
    return tmp_path / "cache"


def test_takes_a_hub_id(tmp_path: Path, hub: Path) -> None:
    templates = next(hub.glob("*/snapshots/*")) / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool_use.jinja").write_text("{{ tools }}")
    artifact = convert("someone/tiny", tmp_path / "out", ConvertConfig(cache_dir=hub))
    artifact.verify()
    assert "additional_chat_templates/tool_use.jinja" in artifact.manifest.files
    assert artifact.tokenizer is not None
    assert str(hub) not in (artifact.path / "manifest.json").read_text()


@pytest.mark.parametrize(("name", "revision"), [("someone/other", None), ("someone/tiny", "v9")])
def test_says_when_the_hub_can_not_give_it(tmp_path: Path, hub: Path, name: str, revision: str | None) -> None:
    with pytest.raises(CheckpointError, match=rf"{name}: no such folder, and it can't be had .* hub: \S.*") as caught:
        convert(name, tmp_path / "out", ConvertConfig(cache_dir=hub, revision=revision))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./missing", "a/b/c", "../x/y", Path("missing")])
def test_asks_the_hub_for_no_path(tmp_path: Path, name: str | Path) -> None:
    with pytest.raises(CheckpointError, match=r": no such folder$"):
        convert(name, tmp_path / "out")


def test_sizes_that_differ_by_layer_are_no_sizes_of_the_model() -> None:
    config = Gemma4TextConfig()
    with pytest.raises(Exception, match="per-layer"):
        _ = config.head_dim
    check_sizes(Path("config.json"), config)


def test_the_vocabulary_of_a_layer_is_no_count_of_layers() -> None:
    raw = Gemma3nTextConfig().to_dict()
    assert raw["vocab_size_per_layer_input"] == 262144
    check_raw(Path("config.json"), raw)


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_a_rotary_base_in_quotes_is_named(place: str) -> None:
    with pytest.raises(CheckpointError, match="rope_theta is '1e4', not a number"):
        check_raw(Path("config.json"), {place: {"rope_theta": "1e4"}})


@pytest.mark.parametrize("base", [0, -5.0])
def test_a_rotary_base_has_roots(base: float) -> None:
    with pytest.raises(CheckpointError, match=f"rope_theta is {base}, not above 0"):
        check_raw(Path("config.json"), {"rope_theta": base})


@pytest.mark.parametrize("part", [0.0, 1.5, -0.5])
def test_a_part_of_a_head_is_more_than_nothing_and_no_more_than_all(part: float) -> None:
    parameters = {"full_attention": {"partial_rotary_factor": part}}
    with pytest.raises(CheckpointError, match=f"partial_rotary_factor is {part}, not above 0 and at most 1"):
        check_raw(Path("config.json"), {"rope_parameters": parameters})


def test_rows_that_pytorch_cant_run_are_an_error_of_one_line(tiny_gpt2: Path) -> None:
    model = torch_reference(tiny_gpt2, ConvertConfig())
    with pytest.raises(CheckpointError, match="PyTorch itself can't run it on 200 tokens: index out of range"):
        model(np.ones(200, np.int64))
