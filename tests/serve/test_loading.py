"""Which models are loaded, and when: the server is one that only takes notes."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from deploykit.artifact import Artifact
from deploykit.errors import ArtifactError, ServeError
from deploykit.serve.loading import Loading
from deploykit.serve.settings import LOAD_PARAMETER, POINTER


class Notes:
    """A server that loads everything but what it is told not to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.refused = ""

    def load(self, model: str, timeout: float) -> None:
        self.calls.append(("load", model))
        if model == self.refused:
            raise ServeError(f"model {model!r} can't be loaded: out of luck")

    def unload(self, model: str, timeout: float) -> None:
        self.calls.append(("unload", model))


class Running:
    """Models at a path, shown to a server that has started."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository, self.folder = repository, folder
        self.server = Notes()
        self.loading = Loading([repository], mode="deterministic", timeout=1)
        self.restart()

    def restart(self) -> None:
        rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.shelf = self.loading.begin(self.folder)

    def reload(self) -> list[str]:
        return self.loading.reload(self.server)

    def load_number(self, model: str) -> int:
        config = text_format.Parse((self.shelf / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert config.name == model
        return int(config.parameters[LOAD_PARAMETER].string_value)


@pytest.fixture
def running(packaged: Artifact, tmp_path: Path) -> Running:
    return Running(copytree(packaged.path / "model_repository", tmp_path / "repository"), tmp_path / "shelf")


@pytest.fixture
def add(running: Running) -> Callable[[str], Path]:
    """Add a copy of the model under another name."""

    def add(name: str) -> Path:
        folder = copytree(running.repository / "tiny", running.repository / name)
        config = folder / "config.pbtxt"
        config.write_text(config.read_text().replace('"tiny"', f'"{name}"'))
        return folder

    return add


def change(folder: Path) -> None:
    """Change a model's configuration in a way that doesn't matter."""
    config = folder / "config.pbtxt"
    config.write_text(config.read_text() + "# changed\n")


def test_the_server_sees_code_and_a_pointer_and_writes_nothing_beside_the_model(running: Running) -> None:
    version = running.shelf / "tiny/1"
    assert {entry.name for entry in version.iterdir()} == {"model.py", POINTER}
    assert Path((version / POINTER).read_text()) == running.repository / "tiny/1"
    assert running.load_number("tiny") == 1


def test_what_has_not_changed_is_not_loaded_again(running: Running) -> None:
    assert running.reload() == []
    assert running.server.calls == []


def test_only_what_has_changed_is_loaded(running: Running, add: Callable[[str], Path]) -> None:
    add("other")
    assert running.reload() == ["other"]
    change(running.repository / "tiny")
    assert running.reload() == ["tiny"]
    assert running.server.calls == [("load", "other"), ("load", "tiny")]
    assert (running.load_number("other"), running.load_number("tiny")) == (2, 3)
    assert running.loading.names == ["other", "tiny"]


def test_a_mode_that_a_model_can_not_run_in_names_the_command(running: Running) -> None:
    with pytest.raises(ArtifactError, match=r"no dynamic-int8 model in it.*deploykit export .* --throughput"):
        Loading([running.repository], mode="throughput", timeout=1)


def test_a_new_version_is_a_change(running: Running) -> None:
    (running.repository / "tiny/1").rename(running.repository / "tiny/2")
    assert running.reload() == ["tiny"]
    assert [entry.name for entry in (running.shelf / "tiny").iterdir() if entry.is_dir()] == ["2"]


def test_what_is_gone_is_unloaded(running: Running, add: Callable[[str], Path]) -> None:
    folder = add("other")
    running.reload()
    rmtree(folder)
    assert running.reload() == ["other"]
    assert running.server.calls[-1] == ("unload", "other")
    assert running.loading.names == ["tiny"]
    assert [entry.name for entry in running.shelf.iterdir()] == ["tiny"]


def test_nothing_is_loaded_if_any_file_is_not_what_it_should_be(running: Running, add: Callable[[str], Path]) -> None:
    change(add("another"))
    folder = running.repository / "tiny/1"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["config.json"]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"config\.json: SHA-256 differs"):
        running.reload()
    assert running.server.calls == []
    assert running.loading.names == ["tiny"]


def test_a_model_that_is_refused_is_shown_as_before_and_tried_again(running: Running) -> None:
    change(running.repository / "tiny")
    running.server.refused = "tiny"
    for _ in range(2):
        with pytest.raises(ServeError, match="out of luck"):
            running.reload()
        assert running.load_number("tiny") == 1
    running.server.refused = ""
    assert running.reload() == ["tiny"]
    assert running.load_number("tiny") == 4


def test_a_model_that_can_not_be_added_is_not_shown(running: Running, add: Callable[[str], Path]) -> None:
    add("other")
    running.server.refused = "other"
    with pytest.raises(ServeError, match="'other' can't be loaded"):
        running.reload()
    assert running.loading.names == ["tiny"]
    assert [entry.name for entry in running.shelf.iterdir()] == ["tiny"]


def test_a_server_that_starts_again_gets_what_is_there_then(running: Running, add: Callable[[str], Path]) -> None:
    (running.repository / "tiny/1").rename(running.repository / "tiny/2")
    add("other")
    running.restart()
    assert running.loading.names == ["other", "tiny"]
    assert (running.shelf / "tiny/2" / POINTER).is_file()
    assert {running.load_number("other"), running.load_number("tiny")} == {2, 3}
    assert running.reload() == []


def test_a_reload_that_the_servers_end_breaks_off_leaves_the_next_one_whole(running: Running) -> None:
    loading, restarting = threading.Event(), threading.Event()

    def load(model: str, timeout: float) -> None:
        loading.set()
        restarting.wait(5)
        # Time for the next server's shelf, if that didn't wait.
        time.sleep(0.2)
        raise ServeError("the server ended meanwhile")

    running.server.load = load  # type: ignore[method-assign]
    change(running.repository / "tiny")
    with ThreadPoolExecutor() as pool:
        reload = pool.submit(running.reload)
        assert loading.wait(5)
        restarting.set()
        running.restart()
        with pytest.raises(ServeError, match="ended meanwhile"):
            reload.result()
    assert running.load_number("tiny") == 3
    assert "# changed" in (running.shelf / "tiny/config.pbtxt").read_text()
    del running.server.load
    assert running.reload() == []


def test_a_reload_that_outlives_its_shelf_says_why_it_failed(running: Running) -> None:
    def load(model: str, timeout: float) -> None:
        rmtree(running.folder)
        raise ServeError("the server ended meanwhile")

    running.server.load = load  # type: ignore[method-assign]
    change(running.repository / "tiny")
    with pytest.raises(ServeError, match="ended meanwhile"):
        running.reload()


def test_a_server_that_can_not_start_again_says_that_its_models_are_gone(running: Running) -> None:
    running.repository.rename(running.repository.with_name("away"))
    with pytest.raises(ArtifactError, match="repository: no such folder"):
        running.restart()


@pytest.mark.parametrize("twice", [True, False])
def test_several_artifacts_are_served_together_unless_their_names_are_the_same(
    twice: bool, packaged: Artifact, running: Running, add: Callable[[str], Path], tmp_path: Path
) -> None:
    add("other")
    rmtree(running.repository / "tiny")
    paths = [packaged.path, packaged.path if twice else running.repository]
    if twice:
        with pytest.raises(
            ArtifactError, match=r"a second model named 'tiny', the first is in .*; package one of them"
        ):
            Loading(paths, mode="deterministic", timeout=1)
    else:
        assert Loading(paths, mode="deterministic", timeout=1).names == ["other", "tiny"]
