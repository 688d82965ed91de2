"""What keeps a session from being opened."""

import os
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
from altering import altered

from deploykit.artifact import Artifact
from deploykit.cgroup import available_cores
from deploykit.draft import draft
from deploykit.engine.session import open_session
from deploykit.errors import ArtifactError
from deploykit.spec import DecoderSpec


def with_spec(artifact: Artifact, **changes: object) -> Artifact:
    spec: DecoderSpec = replace(artifact.manifest.decoder, **changes)  # type: ignore[arg-type]
    return Artifact(artifact.path, replace(artifact.manifest, decoder=spec))


def test_opens_what_keeps_its_contract(llama: Artifact) -> None:
    opened = open_session(llama, threads=1)
    assert [tensor.name for tensor in opened.get_outputs()] == [t.name for t in llama.manifest.decoder.outputs()]


def test_names_a_tensor_that_breaks_the_contract(llama: Artifact) -> None:
    spec = llama.manifest.decoder
    with pytest.raises(ArtifactError, match=r"logits is tensor\(float\) .*, but the manifest says float32 .* 7\]"):
        open_session(with_spec(llama, vocab_size=7))
    with pytest.raises(ArtifactError, match=r"has the tensors .*: not those of its manifest; export again"):
        open_session(with_spec(llama, layers=spec.layers[:1]))
    with pytest.raises(ArtifactError, match="not those of its manifest"):
        open_session(with_spec(llama, logits_to_keep=False))
    narrow = replace(spec.layers[0], key_dim=8)
    with pytest.raises(ArtifactError, match=r"past_key_values\.0\.key is"):
        open_session(with_spec(llama, layers=(narrow, spec.layers[1])))


def test_names_a_precision_that_is_not_there(llama: Artifact) -> None:
    with pytest.raises(ArtifactError, match="no int4 model in it, only fp32"):
        open_session(llama, precision="int4")


def test_a_graph_that_onnx_runtime_refuses_is_one_line_without_a_path(llama: Artifact, tmp_path: Path) -> None:
    def unknown_operator(graph: ir.Graph) -> None:
        graph[0].op_type = "NoSuchOperator"

    broken = altered(llama, tmp_path / "broken", unknown_operator)
    with pytest.raises(ArtifactError, match=r"^model.onnx: ONNX Runtime can't load it: .*NoSuchOperator") as caught:
        open_session(broken)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_graph_that_reads_outside_the_folder_is_refused_before_it_is_loaded(llama: Artifact, tmp_path: Path) -> None:
    with draft(tmp_path / "reaching") as sheet:
        sheet.carry(llama)
        graph = llama.graph().read_bytes()
        assert b"model.onnx_data" in graph
        sheet.file("onnx/model.onnx").write_bytes(graph.replace(b"model.onnx_data", b"../outside.data"))
        reaching = sheet.commit(llama.manifest)
    with pytest.raises(ArtifactError, match=r"keeps weights in '\.\./outside\.data'"):
        open_session(reaching)


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("", 4)])
def test_a_containers_quota_limits_the_threads(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert available_cores(tmp_path) == cores
