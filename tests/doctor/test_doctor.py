"""The whole report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from doctoring import CONTRACT

from deploykit.artifact import Artifact
from deploykit.cli.main import commands
from deploykit.doctor import Report, doctor
from deploykit.draft import draft
from deploykit.errors import ArtifactError, ConfigError


def errors(report: Report) -> list[str]:
    return [f.found for section in report.sections for f in section.findings if f.level == "error"]


def test_an_artifact_is_fit_for_the_release_it_is_made_for(artifact: Artifact) -> None:
    report = doctor(artifact.path, CONTRACT, release="26.07")
    assert report.level in {"ok", "note"}, report.to_json()
    assert report.memory is not None
    assert json.loads(json.dumps(report.to_json()))["memory"]["peak"] == report.memory.peak


def test_an_old_release_is_refused_for_more_than_one_reason(artifact: Artifact) -> None:
    found = errors(doctor(artifact.path, CONTRACT, release="24.10"))
    assert any("CVE" in text for text in found)
    assert any("needs ONNX Runtime 1.23" in text for text in found)


def test_a_packaged_model_may_bring_a_newer_onnx_runtime_than_the_image(artifact: Artifact, repository: Path) -> None:
    (packaged,) = [
        f for s in doctor(repository, CONTRACT, release="25.07").sections for f in s.findings if f.what == "operators"
    ]
    assert packaged.level == "warning"
    assert "install a newer onnxruntime into the image" in packaged.remedy
    assert any(
        "1 GatherBlockQuantized node (attribute bits) needs" in text
        for text in errors(doctor(artifact.path, CONTRACT, release="25.07"))
    )


def test_a_changed_file_is_found(artifact: Artifact, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(artifact.path, tmp_path / "copy"))
    with (copy / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert any("tokenizer.json" in text for text in errors(doctor(copy, CONTRACT)))
    (copy / "onnx" / "model_int8.onnx").write_bytes(b"no graph")
    assert any("not an ONNX file" in text for text in errors(doctor(copy, CONTRACT)))


@pytest.mark.parametrize(
    ("template", "level", "said"),
    [
        (
            "{% for m in messages %}{{ m.content",
            "error",
            "chat_template.jinja: the model's chat template can't be compiled",
        ),
        ("{{ messages[0].name.first }}", "warning", "chat_template.jinja: the model's chat template fails on"),
        ("{{ raise_exception('no') }}", "ok", ""),
        ("{{ messages[0].content }}", "ok", ""),
    ],
)
def test_a_chat_template_is_tried(artifact: Artifact, tmp_path: Path, template: str, level: str, said: str) -> None:
    with draft(tmp_path / "copy") as sheet:
        sheet.carry(artifact)
        sheet.file("chat_template.jinja").write_text(template)
        copy = sheet.commit(artifact.manifest)
    report = doctor(copy.path, CONTRACT, release="26.07")
    found = [f for section in report.sections for f in section.findings if f.what == "chat template"]
    assert [f.level for f in found] == [level] * (level != "ok")
    assert all(f.found.startswith(said) and f.remedy for f in found)


def test_chat_templates_of_an_unknown_form_are_an_error(artifact: Artifact, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(artifact.path, tmp_path / "copy"))
    (copy / "chat_template.json").write_text('{"chat_template": 5}')
    assert any("is neither a text nor a list" in text for text in errors(doctor(copy, CONTRACT)))


def test_a_precision_that_is_not_there(artifact: Artifact) -> None:
    assert any(
        "no int4 graph, only fp32, int8" in text for text in errors(doctor(artifact.path, CONTRACT, precision="int4"))
    )


def test_nothing_there_and_unknown_releases_are_one_line(tmp_path: Path, artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="neither an artifact"):
        doctor(tmp_path, CONTRACT)
    with pytest.raises(ConfigError, match="not in the table"):
        doctor(artifact.path, CONTRACT, release="27.01")


def test_the_command_ends_with_its_own_status_where_it_found_an_error(repository: Path) -> None:
    run = CliRunner().invoke
    good = run(commands, ["doctor", str(repository), "--release", "26.07"])
    assert good.exit_code == 0, good.output
    assert "✓ ok" in good.output
    assert "0 errors" in good.output
    bad = run(commands, ["doctor", str(repository), "--release", "24.10", "--json"])
    assert bad.exit_code == 12
    assert json.loads(bad.output)["level"] == "error"
    assert "--release" in run(commands, ["doctor", "--help"]).output


@pytest.mark.parametrize(("cache", "said"), [("shared", False), ("concatenated", True)])
def test_an_estimate_that_is_not_proven_says_so(artifact: Artifact, tmp_path: Path, cache: Any, said: bool) -> None:
    manifest = artifact.manifest
    with draft(tmp_path / "copy") as sheet:
        sheet.carry(artifact)
        copy = sheet.commit(replace(manifest, decoder=replace(manifest.decoder, cache=cache)))
    report = doctor(copy.path, CONTRACT)
    (found,) = [f.found for section in report.sections for f in section.findings if f.what == "memory needed"]
    assert ("proven for shared caches, and this graph concatenates its own" in found) == said
