"""A sign of life crosses from one process to another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit.serve.heartbeat import HeartbeatWriter, State, beat_file, is_running, read_beat


def test_what_was_written_is_read(tmp_path: Path) -> None:
    HeartbeatWriter(tmp_path, "m").beat(State.SERVING, 3)
    beat = read_beat(tmp_path, "m")
    assert beat is not None
    assert (beat.state, beat.pid, beat.open_requests) == (State.SERVING, os.getpid(), 3)
    assert 0 <= beat.age() < 60


def test_a_count_is_no_sign_of_life(tmp_path: Path) -> None:
    writer = HeartbeatWriter(tmp_path, "m")
    writer.beat(State.SERVING, 0)
    before = read_beat(tmp_path, "m")
    writer.count(2)
    after = read_beat(tmp_path, "m")
    assert before is not None
    assert after is not None
    assert (after.time, after.open_requests) == (before.time, 2)


@pytest.mark.parametrize("content", [None, b"", b"\0" * 32, b"\xff" * 31])
def test_what_was_never_written_is_no_beat(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        beat_file(tmp_path, "m").write_bytes(content)
    assert read_beat(tmp_path, "m") is None


def test_a_process_that_nobody_has_waited_for_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_running(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_running(process.pid)
    assert not is_running(process.pid)
