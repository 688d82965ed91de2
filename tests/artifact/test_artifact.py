"""An artifact is whole or not there."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.artifact import MANIFEST, Artifact, FileEntry, Manifest, StageRecord
from deploykit.card import CARD, new_card
from deploykit.draft import draft
from deploykit.errors import ArtifactError, OutputError
from deploykit.spec import DecoderSpec, LayerCache

SPEC = DecoderSpec(
    cache="shared",
    layers=(LayerCache(heads=2, key_dim=8, value_dim=8),) * 2,
    vocab_size=300,
    max_context=64,
    logits_to_keep=True,
    eos_token_ids=(1,),
)
BLANK = Manifest(
    task="text-generation-with-past", architecture="LlamaForCausalLM", model_type="llama", decoder=SPEC, served="fp32"
)


def write(folder: Path, content: bytes = b"weights", *, overwrite: bool = False) -> Artifact:
    with draft(folder, overwrite=overwrite) as new:
        new.file("onnx/model.onnx").write_bytes(content)
        new.write_json("config.json", {"model_type": "llama"})
        return new.commit(BLANK)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_opens_what_was_committed(tmp_path: Path) -> None:
    written = write(tmp_path / "a")
    opened = Artifact.open(tmp_path / "a")
    assert opened.manifest == written.manifest
    assert set(opened.manifest.files) == {"onnx/model.onnx", "config.json"}
    assert opened.graph() == tmp_path / "a" / "onnx/model.onnx"
    assert leftovers(tmp_path) == ["a"]


def test_knows_the_files_of_each_precision_and_which_one_a_mode_runs(tmp_path: Path) -> None:
    with draft(tmp_path / "a") as new:
        for name in ("model.onnx", "model.onnx_data", "model_int8.onnx"):
            new.file(f"onnx/{name}").write_bytes(b"x" * len(name))
        artifact = new.commit(replace(BLANK, served="int8"))
    assert artifact.files_of("fp32") == ["onnx/model.onnx", "onnx/model.onnx_data"]
    assert artifact.files_of() == ["onnx/model_int8.onnx"]
    assert artifact.files_of("int4") == []
    assert (artifact.size_of("fp32"), artifact.size_of()) == (10 + 15, 15)
    assert artifact.precision_for("deterministic") == "int8"
    with pytest.raises(ArtifactError, match=r"a: no dynamic-int8 model in it.*deploykit export .* --throughput"):
        artifact.precision_for("throughput")
    with draft(tmp_path / "b") as new:
        new.carry(artifact)
        new.file("onnx/model_quantized.onnx").write_bytes(b"")
        assert new.commit(artifact.manifest).precision_for("throughput") == "dynamic-int8"


def test_finished_folder_is_as_readable_as_any_other(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_leaves_nothing_behind_when_the_stage_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with draft(tmp_path / "a") as new:
            new.file("onnx/model.onnx").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert leftovers(tmp_path) == []


def test_refuses_an_output_that_exists(tmp_path: Path) -> None:
    write(tmp_path / "a", b"old")
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
        write(tmp_path / "a", b"new")
    assert Artifact.open(tmp_path / "a").graph().read_bytes() == b"old"


def test_replaces_an_artifact_when_told_to(tmp_path: Path) -> None:
    write(tmp_path / "a", b"old")
    write(tmp_path / "a", b"new", overwrite=True)
    assert Artifact.open(tmp_path / "a").graph().read_bytes() == b"new"
    assert leftovers(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_never_replaces_what_is_not_an_artifact(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "a"
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
        (target / "thesis.txt").write_text("mine")
    else:
        write(tmp_path / "real")
        target.symlink_to(tmp_path / "real")
    before = leftovers(tmp_path)
    with pytest.raises(OutputError, match="not replaced"):
        write(target, overwrite=True)
    assert leftovers(tmp_path) == before


def test_says_that_a_folder_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        write(tmp_path / "file" / "a")


@pytest.mark.parametrize("name", ["onnx/model.onnx", "config.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "link"])
def test_opening_names_a_damaged_file(tmp_path: Path, name: str, damage: str) -> None:
    write(tmp_path / "a")
    file = tmp_path / "a" / name
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    if damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=name):
        Artifact.open(tmp_path / "a")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\..\\x", "", "."])
def test_refuses_file_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    manifest = replace(BLANK, files={name: FileEntry(sha256="0" * 64, size=1)})
    (tmp_path / MANIFEST).write_text(json.dumps(manifest.to_json()))
    with pytest.raises(ArtifactError, match="leaves the artifact's folder"):
        Artifact.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 2}', '{"format_version": 1}', "nul\0"])
def test_a_manifest_that_makes_no_sense_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=MANIFEST):
        Artifact.open(tmp_path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_manifest_escapes_as_another_error(value: object) -> None:
    data = BLANK.to_json()
    for key in data:
        if key != "format_version" and data[key] != value:
            try:
                Manifest.from_json({**data, key: value})
            except ArtifactError:
                continue


def test_a_folder_without_manifest_is_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a deploykit artifact"):
        Artifact.open(tmp_path / "nothing")


def test_carried_files_keep_their_bytes_and_hashes(tmp_path: Path) -> None:
    source = write(tmp_path / "a")
    with draft(tmp_path / "b") as new:
        new.carry(source)
        new.file("config.json").write_text("changed")
        result = new.commit(BLANK)
    assert Artifact.open(tmp_path / "b").manifest == result.manifest
    assert result.manifest.files["onnx/model.onnx"] == source.manifest.files["onnx/model.onnx"]
    assert (tmp_path / "a" / "config.json").read_text() != "changed"


def test_killed_at_any_moment_there_is_the_old_or_the_new(tmp_path: Path) -> None:
    """SIGKILL at moments spread over many replacements: the target opens each time and is one of the two."""
    target = tmp_path / "a"
    write(target, b"0" * 1000)
    script = textwrap.dedent(
        """
        import sys
        sys.path[:0] = sys.argv[2:]
        from test_artifact import write
        from pathlib import Path
        print("go", flush=True)
        for turn in range(10**6):
            write(Path(sys.argv[1]), bytes([turn % 256]) * 1000, overwrite=True)
        """
    )
    here = Path(__file__).parent
    for wait in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(target), str(here)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        signal.sigtimedwait([], 0.01 + 0.013 * wait)
        process.kill()
        process.wait()
        process.stdout.close()
        assert len(set(Artifact.open(target).graph().read_bytes())) == 1
    assert os.path.lexists(target)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("decoder", "cache"), "magic", "cache must be one of shared, concatenated, not 'magic'"),
        (("decoder", "cache_dtype"), "int3", "cache_dtype must be one of"),
        (("decoder", "padding"), 7, "padding must be one of"),
        (("decoder", "logits_to_keep"), "no", "logits_to_keep must be true or false"),
        (("decoder", "layers"), [], "layers must be 1 to 10000, not 0"),
        (("decoder", "layers"), [{"heads": 1, "key_dim": 1, "value_dim": 1}] * 10_001, "not 10001"),
        (("decoder", "layers", 1, "heads"), "2", "heads must be 1 to 2147483647, not '2'"),
        (("decoder", "layers", 0, "key_dim"), -8, "key_dim must be"),
        (("decoder", "vocab_size"), 2**62, "vocab_size must be"),
        (("decoder", "max_context"), 12.5, "max_context must be 1 to 2147483647, not 12.5"),
        (("decoder", "max_context"), float("nan"), "max_context must be"),
        (("decoder", "max_context"), True, "max_context must be"),
        (("decoder", "eos_token_ids"), [2**70], "special tokens must be"),
        (("decoder", "eos_token_ids"), "ab", "special tokens must be"),
        (("files", "config.json", "size"), "big", "a file's size is 'big'"),
        (("architecture",), "\x1b[31mLlama\n\n# Title", r"\[31mLlama.* is no name"),
        (("history",), [{"stage": [], "options": {}, "versions": {}}], "a stage's name is"),
        (("history",), [{"stage": "convert", "options": "x", "versions": {}}], "convert: its options are 'x'"),
    ],
)
def test_a_manifest_that_says_nonsense_is_one_line(
    tmp_path: Path, path: tuple[str | int, ...], value: object, said: str
) -> None:
    write(tmp_path / "a")
    file = tmp_path / "a" / MANIFEST
    manifest = at = json.loads(file.read_text())
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=said):
        Artifact.open(tmp_path / "a")


def test_a_manifest_nested_without_end_is_one_line(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="can't be read: maximum recursion depth"):
        Artifact.open(tmp_path)


def test_figures_that_nobody_wrote_are_one_line(tmp_path: Path) -> None:
    history = (StageRecord(stage="validate", options={}, versions={}),)
    with draft(tmp_path / "a") as new:
        new.file(CARD).write_text(new_card(None, name="a", hub_id=None, licence=None))
        with pytest.raises(ArtifactError, match="its figures can't be read"):
            new.commit(replace(BLANK, history=history, parity={"int8": {"perplexity_loss": "x"}}))
    assert leftovers(tmp_path) == []


def test_a_signal_while_the_hidden_folder_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path.mkdir

    def interrupted(folder: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        made(folder, mode, parents, exist_ok)
        if folder.suffix == ".partial":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), draft(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []
