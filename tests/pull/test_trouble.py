"""What goes wrong on the way: servers that fail, connections that break, disks that are full, pulls that are killed."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from buckets import Bucket, Way, environment

from deploykit.errors import ArtifactError, OutputError, StoreError
from deploykit.pull import pull
from deploykit.pull.staging import STAGING, staging
from deploykit.repository import open_repository

REPOSITORY = Path(__file__).parents[2] / "model_repository"
DATA = "model_int8.onnx_data"


def command(bucket: Bucket, target: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "deploykit", "pull", bucket.url, "-o", str(target), *more]


def demand_keys(bucket: Bucket, after: bytes) -> None:
    """Have the server check its callers' keys after so many requests."""
    headers = {"Content-Type": "text/plain"}
    address = f"{bucket.endpoint}/moto-api/reset-auth"
    urllib.request.urlopen(urllib.request.Request(address, data=after, headers=headers)).close()


def finished(target: Path) -> bool:
    """Whether a server would take what is there."""
    try:
        open_repository(target)
    except ArtifactError:
        return False
    return True


class TestServer:
    def test_that_fails_now_and_then_is_asked_again(self, way: Way, shared: Bucket, tmp_path: Path) -> None:
        way.trouble = lambda _path, number: "error" if number % 5 == 0 else None
        pull(shared.url, tmp_path)
        open_repository(tmp_path).models[0].verify("deterministic")

    def test_that_fails_for_good_is_named(self, way: Way, shared: Bucket, tmp_path: Path) -> None:
        way.trouble = lambda path, _number: "error" if DATA in path else None
        with pytest.raises(StoreError, match="can't read it: 500 Internal Server Error"):
            pull(shared.url, tmp_path, retries=2)
        assert not finished(tmp_path)

    @pytest.mark.parametrize("part", ["manifest.json", DATA])
    def test_that_cuts_off_an_answer_is_asked_for_the_rest(
        self, way: Way, shared: Bucket, tmp_path: Path, part: str
    ) -> None:
        cuts = iter(["cut"] * 3)
        way.trouble = lambda path, _number: next(cuts, None) if part in path else None
        pull(shared.url, tmp_path)
        open_repository(tmp_path).models[0].verify("deterministic")
        assert way.files.count(part) > 1

    def test_that_cuts_off_every_answer_is_given_up(self, way: Way, shared: Bucket, tmp_path: Path) -> None:
        way.trouble = lambda path, _number: "cut" if DATA in path else None
        with pytest.raises(StoreError, match=f"{DATA}: cut off after 0 of 987136 bytes|can't read it"):
            pull(shared.url, tmp_path, retries=2)
        assert not finished(tmp_path)

    def test_that_knows_no_such_key_is_told_from_one_that_is_down(self, shared: Bucket, tmp_path: Path) -> None:
        demand_keys(shared, b"0")
        try:
            with pytest.raises(
                StoreError, match=r"access denied \(403 Forbidden, InvalidAccessKeyId\); the credentials"
            ):
                pull(shared.url, tmp_path / "models")
        finally:
            demand_keys(shared, b"inf")
        assert not (tmp_path / "models").exists()


class TestNextAttempt:
    def test_takes_what_is_whole_and_brings_the_rest(
        self, way: Way, shared: Bucket, tmp_path: Path, fingerprint: str
    ) -> None:
        way.trouble = lambda path, _number: "error" if path.endswith("tokenizer.json") else None
        with pytest.raises(StoreError):
            pull(shared.url, tmp_path, retries=0)
        way.trouble = lambda _path, _number: None
        way.requests.clear()
        pulled = pull(shared.url, tmp_path, fingerprint=fingerprint)
        assert DATA not in way.files
        assert 0 < pulled.downloaded < pulled.size
        assert [path.name for path in tmp_path.iterdir()] == ["tiny-python"]

    def test_trusts_nothing_that_lies_there(self, shared: Bucket, tmp_path: Path) -> None:
        left = tmp_path / STAGING
        for name, content in {
            "tiny-python/1/model.py": b"import evil # as long as the file that is listed",
            "tiny-python/1/more.py": b"import evil",
            "tiny-python/1/tokenizer.json/inside": b"",
            "tiny-python/7/manifest.json": b"{}",
            "another/config.pbtxt": b"",
        }.items():
            (left / name).parent.mkdir(parents=True, exist_ok=True)
            (left / name).write_bytes(content)
        pull(shared.url, tmp_path)
        found = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert found == {p.relative_to(REPOSITORY): p.read_bytes() for p in REPOSITORY.rglob("*") if p.is_file()}

    def test_is_kept_out_while_another_is_at_work(self, shared: Bucket, tmp_path: Path) -> None:
        with staging(tmp_path), pytest.raises(OutputError, match="another pull is at work there"):
            pull(shared.url, tmp_path)
        pull(shared.url, tmp_path)


class TestKill:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_leaves_nothing_that_looks_finished(
        self, way: Way, shared: Bucket, tmp_path: Path, fingerprint: str, number: signal.Signals
    ) -> None:
        way.trouble = lambda path, _number: "stall" if DATA in path else None
        process = subprocess.Popen(command(shared, tmp_path), env=environment(way.url), stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while DATA not in way.files:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=30)
        assert process.returncode == (-9 if number == signal.SIGKILL else 143)
        assert [path.name for path in tmp_path.iterdir()] == [STAGING]
        assert not finished(tmp_path)

        way.trouble = lambda _path, _number: None
        pulled = pull(shared.url, tmp_path, fingerprint=fingerprint)
        assert pulled.downloaded < pulled.size
        assert finished(tmp_path)


class TestDisk:
    def test_that_takes_no_more_is_one_line_and_leaves_nothing(self, shared: Bucket, tmp_path: Path) -> None:
        def limit() -> None:
            # As a full disk: writing fails beyond half a megabyte, as the kernel's own limit has it.
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))

        done = subprocess.run(
            command(shared, tmp_path / "models"),
            env={**environment(shared.endpoint), "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=limit,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == OutputError.exit_code
        assert done.stderr.splitlines()[-1].startswith(
            f"error: {tmp_path / 'models'}: can't be written: File too large"
        )
        assert not (tmp_path / "models").exists()

    @pytest.mark.parametrize(
        ("volume", "message"),
        [
            ("size=8m", None),
            ("size=512k", r": [\d.]+ MiB to download, but only [\d.]+ KiB free there; make room"),
            ("ro", ": can't be written: Read-only file system"),
        ],
    )
    def test_that_is_mounted_is_filled_or_told(
        self, shared: Bucket, tmp_path: Path, volume: str, message: str | None
    ) -> None:
        mounted = f'mount -t tmpfs -o {volume} none {tmp_path} || exit 77; exec "$@"'
        done = subprocess.run(
            ["unshare", "--mount", "--user", "--map-root-user", "sh", "-c", mounted, "sh",
             *command(shared, tmp_path, "--json")],
            env=environment(shared.endpoint), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 77 or "unshare" in done.stderr:
            pytest.skip(f"no mounts of one's own here: {done.stderr.strip()}")
        if message:
            assert done.returncode == OutputError.exit_code
            assert re.search(f"^error: {tmp_path}{message}", done.stderr)
        else:
            assert json.loads(done.stdout)["downloaded"] > 2**20
