"""YAML that kubectl's reader understands as we mean it."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from lightkube.models.core_v1 import ContainerPort

from deploykit.deploy.yaml_text import dump

TEXTS = [
    "1e3", "089", "0o17", "0x1F", "1_000", "12e5", "1", "-1", "+1.5", ".5", "1.", "y", "n", "Y", "yes", "no", "on",
    "off", "true", "null", "~", "", "1:30", "2026-11-24", "1e400", ".inf", ".nan", "a: b", "# a", "- a", "a\nb\n",
    "a\n  b", " a", "a ", "{}", "&a", "*a", "!a", "%a", "@a", "`a", "é", "a\tb", "100m", "1Gi",
]  # fmt: skip


def test_text_stays_text_for_kubectl(tmp_path: Path) -> None:
    data = {f"key-{index}": text for index, text in enumerate(TEXTS)}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "texts"}, "data": data}
    (tmp_path / "kustomization.yaml").write_text(dump([{"resources": ["texts.yaml"]}]))
    (tmp_path / "texts.yaml").write_text(dump([config_map]))
    built = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=True).stdout
    assert yaml.safe_load(built)["data"] == data


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_text_for_pyyaml(text: str) -> None:
    assert yaml.safe_load(dump([{"a": text, "b": [text]}])) == {"a": text, "b": [text]}


def test_keys_keep_their_order_and_nothing_is_an_alias() -> None:
    shared = {"z": 1, "a": [True, None]}
    text = dump([{"second": shared, "first": shared}])
    assert text == "second:\n  z: 1\n  a:\n  - true\n  - null\nfirst:\n  z: 1\n  a:\n  - true\n  - null\n"


def test_documents_typed_objects_and_a_comment() -> None:
    text = dump([ContainerPort(containerPort=8001, name="grpc"), [{"op": "remove"}]], head="why\n\nand how")
    assert text.startswith("# why\n#\n# and how\n")
    assert list(yaml.safe_load_all(text)) == [{"containerPort": 8001, "name": "grpc"}, [{"op": "remove"}]]


def test_typed_objects_inside_plain_ones() -> None:
    text = dump([{"ports": [ContainerPort(containerPort=1)]}])
    assert json.dumps(yaml.safe_load(text)) == '{"ports": [{"containerPort": 1}]}'
