"""A sign of life crosses from one process to another."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploykit.serve.heartbeat import (
    Beat,
    HeartbeatWriter,
    State,
    beat_file,
    current,
    forget,
    is_running,
    read_beats,
    read_facts,
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    HeartbeatWriter(tmp_path, "m-1.x", load=7).beat(State.SERVING, 3)
    (beat,) = read_beats(tmp_path)
    assert (beat.model, beat.load, beat.state, beat.pid, beat.open_requests) == (
        "m-1.x",
        7,
        State.SERVING,
        os.getpid(),
        3,
    )
    assert 0 <= beat.age() < 60


def test_two_processes_of_a_model_do_not_write_over_each_other(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from deploykit.serve.heartbeat import HeartbeatWriter, State;"
        "HeartbeatWriter(Path(sys.argv[1]), 'm', load=1).beat(State.SERVING, 5)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    HeartbeatWriter(tmp_path, "m", load=2).beat(State.LOADING, 0)
    assert [(beat.load, beat.open_requests) for beat in read_beats(tmp_path)] == [(1, 5), (2, 0)]


def test_a_count_is_no_sign_of_life(tmp_path: Path) -> None:
    writer = HeartbeatWriter(tmp_path, "m")
    writer.beat(State.SERVING, 0)
    (before,) = read_beats(tmp_path)
    writer.count(2)
    (after,) = read_beats(tmp_path)
    assert (after.time, after.open_requests) == (before.time, 2)


def test_what_is_said_about_a_model_goes_with_it(tmp_path: Path) -> None:
    writer = HeartbeatWriter(tmp_path, "m")
    writer.beat(State.SERVING, 0)
    (beat,) = read_beats(tmp_path)
    assert read_facts(tmp_path, beat) == {}
    writer.describe({"rows": 4})
    assert read_facts(tmp_path, beat) == {"rows": 4}
    forget(tmp_path, beat)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"\xff" * 39])
def test_what_was_never_written_is_no_beat(content: bytes, tmp_path: Path) -> None:
    beat_file(tmp_path, "m", 3).write_bytes(content)
    assert read_beats(tmp_path) == []


def beat(model: str, load: int, state: State) -> Beat:
    return Beat(model=model, load=load, state=state, pid=1, time=0.0, open_requests=0)


OLD, NEW = beat("m", 1, State.SERVING), beat("m", 2, State.SERVING)


@pytest.mark.parametrize(
    ("beats", "counting"),
    [
        ([OLD, NEW], [NEW]),
        ([NEW, OLD], [NEW]),
        ([OLD, beat("m", 2, State.LOADING)], [OLD]),
        ([OLD, beat("m", 2, State.CLOSED)], [OLD]),
        ([OLD, beat("n", 2, State.SERVING)], [OLD, beat("n", 2, State.SERVING)]),
        ([NEW, NEW], [NEW, NEW]),
        ([beat("m", 1, State.LOADING)], [beat("m", 1, State.LOADING)]),
    ],
)
def test_new_requests_go_to_the_latest_that_came_to_serve(beats: list[Any], counting: list[Any]) -> None:
    assert current(beats) == counting


def test_a_process_that_nobody_has_waited_for_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_running(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_running(process.pid)
    assert not is_running(process.pid)


def test_who_reads_while_it_is_written_sees_a_whole_one(tmp_path: Path) -> None:
    """A half of one looks like a death, and the server would be started again with all that runs on it."""
    code = (
        "import sys; from pathlib import Path; from deploykit.serve.heartbeat import HeartbeatWriter, State\n"
        "writer = HeartbeatWriter(Path(sys.argv[1]), 'm', load=1)\n"
        "while True: writer.beat(State.SERVING, 3); writer.count(4)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as process:
        try:
            while not read_beats(tmp_path):
                assert process.poll() is None
            for _ in range(2000):
                (beat,) = read_beats(tmp_path)
                assert (beat.state, beat.pid, beat.load) == (State.SERVING, process.pid, 1)
                assert beat.open_requests in (3, 4)
                assert beat.age() < 60
        finally:
            process.kill()
