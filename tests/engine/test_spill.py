"""Rows set aside in a file: they come back as they were, its space is used again, and a full disk costs a row alone."""

import errno
import gc
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploykit.engine.job import Job
from deploykit.engine.spill import Spill


def parts(seed: int, size: int) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return [random.standard_normal((size, 4), np.float32), random.standard_normal((size + 1, 2), np.float32)]


def empty_like(arrays: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    return [np.zeros_like(array) for array in arrays]


def size_of(arrays: list[NDArray[np.float32]]) -> int:
    return sum(array.nbytes for array in arrays)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.booleans()), max_size=30))
def test_what_comes_back_is_what_was_set_aside(history: list[tuple[int, int, bool]]) -> None:
    """Jobs of many sizes go out and come back, or end out there, in any order."""
    store, jobs = Spill(), [Job([1]) for _ in range(6)]
    kept: dict[int, list[NDArray[np.float32]]] = {}
    for step, (number, size, comes_back) in enumerate(history):
        if number not in kept:
            kept[number] = parts(step, size)
            assert store.save(jobs[number], kept[number])
        elif comes_back:
            wanted = kept.pop(number)
            found = empty_like(wanted)
            assert store.load(jobs[number], found)
            assert all(np.array_equal(*pair) for pair in zip(wanted, found, strict=True))
        else:
            del kept[number]
            store.drop(jobs[number])
        assert store.bytes >= sum(map(size_of, kept.values()))
    for number, wanted in kept.items():
        found = empty_like(wanted)
        assert store.load(jobs[number], found)
        assert all(np.array_equal(*pair) for pair in zip(wanted, found, strict=True))
    assert store.bytes == 0


def test_room_is_used_again_and_given_back() -> None:
    store, jobs = Spill(), [Job([1]) for _ in range(4)]
    for number, size in enumerate((8, 4, 8)):
        assert store.save(jobs[number], parts(number, size))
    whole = store.bytes
    store.drop(jobs[0])
    assert store.save(jobs[3], parts(3, 6))
    assert store.bytes == whole, "there was room for it at the beginning"
    store.drop(jobs[2])
    store.drop(jobs[1])
    assert store.bytes == size_of(parts(3, 6))
    assert store._file is not None
    assert os.fstat(store._file.fileno()).st_size == store.bytes
    store.drop(jobs[1])


def test_the_file_has_no_name_and_goes_with_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Spill()
    assert store.save(Job([1]), parts(0, 4))
    assert list(tmp_path.iterdir()) == []
    file = store._file
    assert file is not None
    del store
    gc.collect()
    assert file.closed


def test_no_folder_for_a_file_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    store = Spill()
    job = Job([1])
    assert not store.save(job, parts(0, 4))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert store.save(job, parts(0, 4))


@pytest.fixture
def _nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the disk take 64 bytes a call, and none past 200."""
    write = os.pwrite

    def pwrite(file: int, buffer: memoryview, at: int) -> int:
        room = min(64, 200 - at)
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, buffer[:room], at)

    monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.usefixtures("_nearly_full")
def test_a_full_disk_costs_the_row_that_found_no_room(caplog: pytest.LogCaptureFixture) -> None:
    store, first, second = Spill(), Job([1]), Job([1])
    small, large = parts(0, 4), parts(1, 9)
    assert store.save(first, small)
    assert not store.save(second, large)
    assert "No space left on device" in caplog.text
    assert store._file is not None
    assert os.fstat(store._file.fileno()).st_size == store.bytes == size_of(small)
    found = empty_like(small)
    assert store.load(first, found)
    assert all(np.array_equal(*pair) for pair in zip(small, found, strict=True))


def test_what_cant_be_read_is_said_and_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    store, first, second = Spill(), Job([1]), Job([1])
    assert store.save(first, parts(0, 4))
    assert store.save(second, parts(1, 4))
    assert store._file is not None
    os.ftruncate(store._file.fileno(), store.bytes - 1)
    assert not store.load(second, empty_like(parts(1, 4)))
    assert "too short" in caplog.text
    assert store.load(first, empty_like(parts(0, 4)))
    assert store.bytes == 0
