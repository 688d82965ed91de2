"""The model card: the source's words kept, the changes said at its head, each stage anew."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.card import has_changes, new_card, with_changes
from deploykit.config import PackageConfig
from deploykit.convert import convert
from deploykit.optimize import optimize
from deploykit.package import package
from deploykit.quantize import quantize
from deploykit.validate import validate

BODY = "# Greeter\n\nIt greets.\n\n---\n\n| a | b |\n|---|---|\n| ü | 你好 |\n"
FRONTS: dict[str, str | None] = {
    "none": None,
    "empty": "",
    "licence and languages": "license: apache-2.0\nlanguage:\n- en\n- de\ndatasets: [wiki, code]\n",
    "tags in a block": "tags:\n- text-generation\n- code\nlicense: mit\n",
    "tags in an indented block": "tags:\n  - text-generation\n  - code\nlicense: mit\n",
    "tags in a line": "license: mit\ntags: [code, tiny]\n",
    "no tags in a line": "tags: []\n",
    "one tag": "tags: code\nlicense: mit\n",
    "tags of nothing": "tags:\nlicense: mit\n",
    "tagged already": "tags:\n- onnx\n- code\n",
    "nested": "model-index:\n- name: x\n  results:\n  - task: {type: x}\n    tags: [inner]\nlicense: llama3\n",
    "made from another": "base_model: someone/else\nbase_model_relation: finetune\n",
}


def card(front: str | None) -> str:
    return BODY if front is None else f"---\n{front}---\n{BODY}"


def parts(text: str) -> tuple[Mapping[str, Any], str]:
    """Front matter as YAML, and what follows."""
    assert text.startswith("---\n")
    front, _, body = text[4:].partition("\n---\n")
    return yaml.safe_load(front) or {}, body


@pytest.mark.parametrize("name", FRONTS)
def test_keeps_all_that_the_source_says(name: str) -> None:
    front = FRONTS[name]
    before = (yaml.safe_load(front) if front else None) or {}
    text = new_card(card(front), name="x", hub_id="someone/tiny", licence=None)
    after, body = parts(text)
    tags = before.get("tags") or []
    assert set(after["tags"]) == {"onnx", *([tags] if isinstance(tags, str) else tags)}
    expected = {"base_model": "someone/tiny", **before, "tags": after["tags"]}
    assert after == expected
    assert body.endswith(f"\n\n{BODY}")
    assert has_changes(text)
    assert new_card(text, name="x", hub_id="someone/tiny", licence=None) == text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_card_is_lost(source: str) -> None:
    text = new_card(source, name="x", hub_id=None, licence="LICENSE")
    assert has_changes(text)
    for line in source.splitlines():
        assert line.strip() in text


def test_a_checkpoint_without_a_card_gets_one() -> None:
    fields, body = parts(new_card(None, name="LlamaForCausalLM", hub_id=None, licence="LICENSE.txt"))
    assert fields == {"license": "other", "license_link": "LICENSE.txt", "tags": ["onnx"]}
    assert body.endswith("# LlamaForCausalLM\n\nThe checkpoint came without a model card.\n")


def test_each_stage_says_what_it_changed(tmp_path: Path, tiny_llama: Path) -> None:
    checkpoint = Path(shutil.copytree(tiny_llama, tmp_path / "checkpoint"))
    source = card("license: apache-2.0\n").replace("\n", "\r\n").encode() + b"\xff\n"
    (checkpoint / "README.md").write_bytes(source)
    licence = b"Apache License\r\n\xfe"
    (checkpoint / "LICENSE").write_bytes(licence)
    artifact = convert(checkpoint, tmp_path / "1")
    first = (artifact.path / "README.md").read_bytes()
    artifact = optimize(artifact, tmp_path / "2")
    artifact = quantize(artifact, tmp_path / "3")
    artifact = validate(artifact, tmp_path / "4", link=True)
    artifact = package(artifact, tmp_path / "5", PackageConfig(name="greeter"), link=True)
    artifact.verify()
    assert (tmp_path / "1" / "README.md").read_bytes() == first
    assert (artifact.path / "LICENSE").read_bytes() == licence
    text = (artifact.path / "README.md").read_bytes()
    assert text.endswith(BODY.replace("\n", "\r\n").encode() + b"\xff\n")
    assert b"license: apache-2.0" in text
    said = [line for line in text.decode(errors="replace").splitlines() if line.startswith("- **")]
    begins = (
        "- **Converted to ONNX**: written as a fused graph, opset 20",
        "- **Simplified**: ",
        "- **Weights changed**",
    )
    assert all(line.startswith(start) for line, start in zip(said, begins, strict=False))
    assert [line.partition(" in ")[2].partition(":")[0] for line in said[3:-1]] == ["fp32", "int8"]
    assert said[-1] == "- **Packaged** for Triton as `greeter`."
    assert text.count(b"## Changes made by deploykit") == 1
    assert text.index(b"## Changes made by deploykit") < text.index(b"# Greeter")
    assert str(tmp_path).encode() not in text


def test_a_stage_unknown_here_is_named(tmp_path: Path, tiny_llama: Path) -> None:
    from dataclasses import replace

    manifest = convert(tiny_llama, tmp_path / "out").manifest
    record = replace(manifest.history[0], stage="distil")
    text = with_changes(new_card(None, name="x", hub_id=None, licence=None), replace(manifest, history=(record,)))
    assert "- **distil**, see `manifest.json`." in text
