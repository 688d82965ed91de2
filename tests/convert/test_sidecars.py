"""The files beside the graph: what each runtime looks for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_tokenizer
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from deploykit.artifact import Artifact
from deploykit.chat_template.sources import read_sources
from deploykit.config import ConvertConfig
from deploykit.convert import convert
from deploykit.errors import CheckpointError
from deploykit.package import package


@pytest.fixture
def folder(tmp_path: Path, tiny_llama: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "checkpoint"))


def data(artifact: Artifact, name: str) -> Any:
    return json.loads((artifact.path / name).read_text())


def test_every_file_the_layout_names_is_there(folder: Path) -> None:
    (folder / "README.md").write_text("# Card\n")
    (folder / "LICENSE.txt").write_text("MIT\n")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "optimizer.pt").write_bytes(b"no part of a model")
    artifact = convert(folder, folder.parent / "out")
    assert sorted(artifact.manifest.files) == sorted(
        [
            "LICENSE.txt",
            "README.md",
            "chat_template.jinja",
            "config.json",
            "genai_config.json",
            "generation_config.json",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    )
    assert (artifact.path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    specials = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    assert data(artifact, "special_tokens_map.json") == specials


def test_no_chat_template_is_lost(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {name: f"{{{{ '{name}' }}}}" for name in ("default", "tool_use", "rag")}
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.json").write_text('{"chat_template": "of a processor"}')
    found = convert(folder, folder.parent / "out")
    kept = AutoTokenizer.from_pretrained(found.path).chat_template
    assert kept == tokenizer.chat_template
    assert "additional_chat_templates/rag.jinja" in found.manifest.files
    assert (found.path / "chat_template.json").read_text() == '{"chat_template": "of a processor"}'
    again = package(found, folder.parent / "packaged")
    served = read_sources(again.path / "model_repository/model/1")
    assert served
    assert dict(served.templates) == kept
    assert served.specials["eos_token"] == "</s>"


BROKEN = "{% for m in messages %}{{ m.content"
REFUSES = "{{ raise_exception('one message alone') if messages|length > 1 }}"


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "additional_chat_templates/tool_use.jinja", "chat_template.json"]
)
def test_a_broken_chat_template_ends_the_conversion_before_its_work(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"chat_template": BROKEN}) if name.endswith("json") else BROKEN)
    with pytest.raises(
        CheckpointError, match=r"can't be compiled: TemplateSyntaxError: .* \(line 1\); correct"
    ) as caught:
        convert(folder, folder.parent / "out")
    assert str(caught.value).startswith(f"{folder / name}: ")
    assert "\n" not in str(caught.value)
    assert not (folder.parent / "out").exists()


def test_a_chat_template_of_an_unknown_form_is_a_checkpoint_error(folder: Path) -> None:
    (folder / "chat_template.json").write_text('{"chat_template": 5}')
    with pytest.raises(CheckpointError, match=r"chat_template\.json: .* is neither a text nor a list"):
        convert(folder, folder.parent / "out")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (REFUSES, ""),
        ("{{ messages[1].name.first }}", "chat_template.jinja: the model's chat template fails on these messages"),
    ],
)
def test_a_chat_template_may_refuse_and_one_that_fails_is_told(folder: Path, template: str, said: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    notes: list[str] = []
    artifact = convert(
        folder, folder.parent / "out", progress=lambda what, _done, _total, note="": notes.append(f"{what}|{note}")
    )
    assert "chat_template.jinja" in artifact.manifest.files
    told = "".join(note.partition("|")[2] for note in notes if note.startswith("checking the chat template"))
    assert said in told
    assert bool(said) == bool(told)


def test_config_says_which_file_has_external_data(folder: Path) -> None:
    config = data(convert(folder, folder.parent / "out"), "config.json")
    assert config.pop("transformers.js_config") == {"use_external_data_format": {"model.onnx": 1}}
    assert config == json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_genai_is_told_of_the_graph(request: pytest.FixtureRequest, tmp_path: Path, family: str) -> None:
    artifact = convert(request.getfixturevalue(f"tiny_{family}"), tmp_path / "out", ConvertConfig(max_context=100))
    genai = data(artifact, "genai_config.json")
    model, decoder = genai["model"], genai["model"]["decoder"]
    assert (model["type"], model["context_length"], model["vocab_size"]) == ("decoder", 100, 318)
    assert (model["bos_token_id"], model["eos_token_id"], model["pad_token_id"]) == (0, [1], 2)
    assert decoder["filename"] == "onnx/model.onnx"
    assert decoder["session_options"]["session.x64quantprecision"] == "1"
    assert (decoder["head_size"], decoder["num_key_value_heads"]) == (16, 4 if family == "gpt2" else 2)
    assert (decoder["hidden_size"], decoder["num_hidden_layers"], decoder["num_attention_heads"]) == (64, 2, 4)
    assert genai["search"]["past_present_share_buffer"] is True
    assert genai["search"]["max_length"] == 100


def test_the_ends_of_generation_config_come_first(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7], "pad_token_id": -1}))
    artifact = convert(folder, folder.parent / "out")
    spec = artifact.manifest.decoder
    assert (spec.bos_token_id, spec.eos_token_ids, spec.pad_token_id) == (0, (1, 7), None)
    assert data(artifact, "generation_config.json") == {"eos_token_id": [1, 7], "pad_token_id": -1}


def test_a_generation_config_is_made_where_there_is_none(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    made = data(convert(folder, folder.parent / "out"), "generation_config.json")
    assert made == {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def test_converts_an_older_tokenizer(folder: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(tiny_gpt2, tmp_path / "old"))
    bpe = json.loads((old / "tokenizer.json").read_text())["model"]
    (old / "tokenizer.json").unlink()
    (old / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in bpe["merges"]]
    (old / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    names = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<s>"}
    (old / "tokenizer_config.json").write_text(json.dumps(names))
    artifact = convert(old, tmp_path / "out")
    assert artifact.tokenizer is not None
    text = "def greet(name): 你好"
    assert Tokenizer.from_file(str(artifact.tokenizer)).encode(text).ids == make_tokenizer().encode(text)


def test_an_older_tokenizer_that_can_not_be_read_is_said(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"not sentencepiece")
    with pytest.raises(CheckpointError, match=r"can't be converted to tokenizer\.json: \S") as caught:
        convert(folder, folder.parent / "out")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_tokenizer_is_fine(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    artifact = convert(folder, folder.parent / "out")
    assert artifact.tokenizer is None
    assert "special_tokens_map.json" not in artifact.manifest.files
