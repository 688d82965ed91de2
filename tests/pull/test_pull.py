"""A model comes out of an object store as it went in, or not at all."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from buckets import BUCKET, Bucket, Way

from deploykit.artifact import MANIFEST, Artifact
from deploykit.errors import ArtifactError, ConfigError, OutputError, StoreError
from deploykit.pull import pull
from deploykit.pull.staging import STAGING

REPOSITORY = Path(__file__).parents[2] / "model_repository"
NAME = "tiny-python"
VERSION = f"{NAME}/1"
WEIGHTS = f"{VERSION}/onnx/model_int8.onnx_data"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_manifest(repository: Path, **files: Any) -> None:
    """Have the manifest list more files than those that are there."""
    file = repository / VERSION / MANIFEST
    manifest = json.loads(file.read_text())
    manifest["files"] |= files
    file.write_text(json.dumps(manifest))


def entry(content: bytes, **changed: Any) -> dict[str, Any]:
    return {"sha256": sha256(content).hexdigest(), "size": len(content), **changed}


class TestWhatComes:
    def test_is_the_repository_to_the_byte(self, shared: Bucket, tmp_path: Path, fingerprint: str) -> None:
        pulled = pull(shared.url, tmp_path / "models", fingerprint=fingerprint)
        assert files(tmp_path / "models") == files(REPOSITORY)
        assert [model.fingerprint for model in pulled.models] == [fingerprint]
        assert (
            pulled.downloaded
            == pulled.size
            == sum(file.size for file in Artifact.open(REPOSITORY / VERSION).manifest.files.values())
        )

    def test_is_that_of_an_artifact_if_there_is_one(self, empty: Bucket, tmp_path: Path) -> None:
        for name, content in files(REPOSITORY).items():
            empty.write(f"model_repository/{name}", content)
        empty.write("manifest.json", b"of the artifact")
        empty.write("onnx/model.onnx", b"of another runtime")
        pull(empty.url, tmp_path)
        assert files(tmp_path) == files(REPOSITORY)

    def test_is_nothing_that_no_manifest_lists(self, bucket: Bucket, tmp_path: Path) -> None:
        for name in (
            f"{VERSION}/evil.py",
            f"{NAME}/labels.txt",
            f"{NAME}/01/manifest.json",
            "notes/readme",
            ".x/config.pbtxt",
        ):
            bucket.write(name, b"import os")
        pull(bucket.url, tmp_path)
        assert files(tmp_path) == files(REPOSITORY)

    def test_is_every_model_and_every_version(self, bucket: Bucket, tmp_path: Path) -> None:
        for name, content in files(REPOSITORY / NAME).items():
            bucket.write(f"second/{name}", content)
            bucket.write(f"second/{name.replace('1/', '12/', 1)}", content)
        pulled = pull(bucket.url, tmp_path)
        assert {model.name: model.versions for model in pulled.models} == {NAME: (1,), "second": (1, 12)}
        for model in pulled.models:
            model.verify("deterministic")

    def test_may_come_from_a_folder(self, tmp_path: Path, fingerprint: str) -> None:
        pull(f"file://{REPOSITORY}", tmp_path / "models", fingerprint=fingerprint)
        assert files(tmp_path / "models") == files(REPOSITORY)


class TestFingerprint:
    def test_of_another_model_is_refused_before_its_files_come(self, way: Way, shared: Bucket, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"has the fingerprint [0-9a-f]{64}, not 0{64}; upload"):
            pull(shared.url, tmp_path / "models", fingerprint="0" * 64)
        assert not (tmp_path / "models").exists()
        assert set(way.files) == {BUCKET, "config.pbtxt", MANIFEST}

    @pytest.mark.parametrize("name", [f"{NAME}/config.pbtxt", f"{VERSION}/{MANIFEST}"])
    def test_tells_one_changed_byte(self, bucket: Bucket, tmp_path: Path, fingerprint: str, name: str) -> None:
        bucket.write(name, bucket.read(name) + b"\n")
        with pytest.raises(ArtifactError, match="fingerprint"):
            pull(bucket.url, tmp_path, fingerprint=fingerprint)

    def test_is_that_of_one_model(self, bucket: Bucket, tmp_path: Path, fingerprint: str) -> None:
        for name, content in files(REPOSITORY / NAME).items():
            bucket.write(f"second/{name}", content)
        with pytest.raises(ArtifactError, match=r"2 models \(second, tiny-python\)"):
            pull(bucket.url, tmp_path, fingerprint=fingerprint)

    def test_of_what_is_there_already_asks_the_store_for_nothing(
        self, way: Way, shared: Bucket, tmp_path: Path, fingerprint: str
    ) -> None:
        pull(shared.url, tmp_path, fingerprint=fingerprint)
        way.requests.clear()
        assert pull(shared.url, tmp_path, fingerprint=fingerprint).downloaded == 0
        assert way.requests == []

    def test_finds_what_was_damaged_in_the_folder(self, shared: Bucket, tmp_path: Path, fingerprint: str) -> None:
        pull(shared.url, tmp_path, fingerprint=fingerprint)
        (tmp_path / VERSION / "model.py").write_text("import os")
        with pytest.raises(OutputError, match="exists already"):
            pull(shared.url, tmp_path, fingerprint=fingerprint)
        pull(shared.url, tmp_path, fingerprint=fingerprint, overwrite=True)
        assert files(tmp_path) == files(REPOSITORY)


class TestDamageInTheStore:
    @pytest.mark.parametrize("name", ["onnx/model_int8.onnx_data", "model.py"])
    def test_of_one_bit_is_found(self, bucket: Bucket, tmp_path: Path, name: str) -> None:
        content = bytearray(bucket.read(f"{VERSION}/{name}"))
        content[len(content) // 2] ^= 1
        bucket.write(f"{VERSION}/{name}", bytes(content))
        with pytest.raises(ArtifactError, match=rf"{name}: its SHA-256 is \w+, but its manifest says"):
            pull(bucket.url, tmp_path / "models")
        assert not (tmp_path / "models").exists()

    @pytest.mark.parametrize("change", [lambda old: old[:-1], lambda old: old + b"!", lambda _: b""])
    def test_of_a_size_is_found_before_a_byte_comes(self, bucket: Bucket, tmp_path: Path, change: Any) -> None:
        bucket.write(WEIGHTS, change(bucket.read(WEIGHTS)))
        with pytest.raises(ArtifactError, match=r"onnx_data: \d+ bytes, but its manifest says 987136"):
            pull(bucket.url, tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (WEIGHTS, "onnx_data: listed in its manifest, but not there"),
            (f"{VERSION}/{MANIFEST}", "no version of the model in it|not there"),
            (f"{NAME}/config.pbtxt", r"no model repository \(no \*/config.pbtxt in it\)"),
        ],
    )
    def test_of_a_missing_file_is_named(self, bucket: Bucket, tmp_path: Path, name: str, message: str) -> None:
        bucket.delete(name)
        with pytest.raises(ArtifactError, match=message):
            pull(bucket.url, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_of_a_manifest_is_named(self, bucket: Bucket, tmp_path: Path) -> None:
        bucket.write(f"{VERSION}/{MANIFEST}", b'{"format_version": 1')
        with pytest.raises(ArtifactError, match="can't be read"):
            pull(bucket.url, tmp_path)

    @pytest.mark.parametrize("name", [f"{NAME}/config.pbtxt", f"{VERSION}/{MANIFEST}"])
    def test_by_which_a_small_file_is_huge_is_refused(self, bucket: Bucket, tmp_path: Path, name: str) -> None:
        bucket.write(name, bytes(2**24 + 1))
        with pytest.raises(ArtifactError, match="16777217 bytes, more than"):
            pull(bucket.url, tmp_path)


class TestHostileManifest:
    @pytest.fixture
    def repository(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return Path(shutil.copytree(REPOSITORY, tmp_path_factory.mktemp("hostile") / "repository"))

    @pytest.mark.parametrize(
        "name",
        ["../../evil.py", "/etc/evil", "a/../../evil", "a\\..\\evil", "..", ".", "", "a//b", "a/", "./a", "a\nb",
         "a\0b", "\ud800", "\u202egnp.exe", MANIFEST, "model.py/inside"],
    )  # fmt: skip
    def test_names_no_file_outside_its_folder(self, repository: Path, tmp_path: Path, name: str) -> None:
        change_manifest(repository, **{name: entry(b"evil")})
        with pytest.raises(ArtifactError, match=r"leaves the artifact's folder|can't be a file"):
            pull(f"file://{repository}", tmp_path / "deep" / "models")
        assert not list(tmp_path.rglob("evil*"))
        assert not (tmp_path / "deep/models").exists()

    def test_lists_no_name_that_no_disk_takes(self, repository: Path, tmp_path: Path) -> None:
        change_manifest(repository, **{"n" * 300: entry(b"")})
        with pytest.raises(OutputError, match="can't be written: File name too long"):
            pull(f"file://{repository}", tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("size", [2**50, 10**40])
    def test_fills_no_disk(self, repository: Path, tmp_path: Path, size: int) -> None:
        change_manifest(repository, huge=entry(b"", size=size))
        with pytest.raises(OutputError, match=r"to download, but only [\d.]+ [MGT]iB free there"):
            pull(f"file://{repository}", tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_has_no_file_of_less_than_nothing(self, repository: Path, tmp_path: Path) -> None:
        change_manifest(repository, less=entry(b"", size=-(2**60)))
        with pytest.raises(ArtifactError, match="can't be a file"):
            pull(f"file://{repository}", tmp_path)


class TestTarget:
    def test_with_something_in_it_stays_as_it_is(self, shared: Bucket, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        for overwrite, message in ((False, "exists already"), (True, "notes.txt in it is no model of a repository")):
            with pytest.raises(OutputError, match=message):
                pull(shared.url, tmp_path, overwrite=overwrite)
        assert files(tmp_path) == {"notes.txt": b"mine"}

    def test_gives_way_to_what_comes_if_it_may(self, shared: Bucket, tmp_path: Path) -> None:
        (tmp_path / "older" / "1").mkdir(parents=True)
        (tmp_path / "older/config.pbtxt").touch()
        (tmp_path / NAME).mkdir()
        (tmp_path / NAME / "config.pbtxt").write_text("name: 'old'")
        (tmp_path / NAME / "left.py").touch()
        pull(shared.url, tmp_path, overwrite=True)
        assert files(tmp_path) == files(REPOSITORY)

    def test_may_be_the_root_of_a_fresh_disk(self, shared: Bucket, tmp_path: Path) -> None:
        (tmp_path / "lost+found").mkdir()
        pull(shared.url, tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lost+found", NAME]

    def test_that_is_a_file_or_behind_one_is_named(self, shared: Bucket, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for target in (tmp_path / "file", tmp_path / "file" / "models"):
            with pytest.raises(OutputError, match="can't be written: Not a directory"):
                pull(shared.url, target)

    def test_with_links_in_the_hidden_folder_is_refused(self, shared: Bucket, tmp_path: Path) -> None:
        (tmp_path / "models" / STAGING).mkdir(parents=True)
        (tmp_path / "models" / STAGING / NAME).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OutputError, match="has links in it"):
            pull(shared.url, tmp_path / "models")
        assert not (tmp_path / "elsewhere").exists()


class TestStore:
    @pytest.mark.parametrize("url", ["models", "/models", "ftp://host/x", "s3://", "memory:///x", "https://host/x"])
    def test_is_named_by_a_url(self, tmp_path: Path, url: str) -> None:
        with pytest.raises(ConfigError, match="is no URL of an object store; write s3://BUCKET/PATH"):
            pull(url, tmp_path / "models")
        assert not (tmp_path / "models").exists()

    def test_without_the_bucket_is_named(self, empty: Bucket, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="there is no such bucket"):
            pull("s3://no-such-bucket/x", tmp_path / "models")
        assert not (tmp_path / "models").exists()

    def test_that_nobody_answers_for_is_named(
        self, empty: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(StoreError, match=r"no answer.*AWS_ENDPOINT_URL"):
            pull(empty.url, tmp_path, retries=1)

    def test_that_lists_keys_outside_of_it_is_refused(self, bucket: Bucket, tmp_path: Path) -> None:
        import http.client

        connection = http.client.HTTPConnection(bucket.endpoint.removeprefix("http://"))
        connection.request("PUT", f"{bucket.url.removeprefix('s3:/')}/../evil/config.pbtxt", b"x")
        assert connection.getresponse().status == 200
        with pytest.raises(StoreError, match=r"invalid path|illegal"):
            pull(bucket.url, tmp_path)

    def test_with_a_folder_of_an_odd_name_is_refused(self, bucket: Bucket, tmp_path: Path) -> None:
        bucket.write("a\\b/config.pbtxt", b"x")
        with pytest.raises(ArtifactError):
            pull(bucket.url, tmp_path)
