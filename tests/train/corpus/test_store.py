"""Numbers on disk and back."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.errors import OutputError
from deploykit.train.corpus import store
from deploykit.train.corpus.store import Store, StoreWriter, token_type

ROWS = st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=6), max_size=12)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([np.uint16, np.uint32]))
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], kind: type[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "rows"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_FLUSH", 8)
        patch.setattr(store, "TOUCHES", 3)
        with StoreWriter(path, kind) as writer:
            for row in rows:
                writer.add(row)
        read = Store(path, kind)
        assert [read.row(index).tolist() for index in range(len(read))] == rows
    assert read.numbers.dtype == kind
    assert read.numbers.tolist() == [number for row in rows for number in row]
    order = np.arange(len(rows))[::-1]
    assert read.lengths(order).tolist() == [len(row) for row in reversed(rows)]
    assert read.slice(1, 3).tolist() == read.numbers.tolist()[1:3]


def test_what_is_read_may_be_changed(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "rows", np.uint16) as writer:
        writer.add([1, 2, 3])
    read = Store(tmp_path / "rows", np.uint16)
    read.row(0)[:] = 0
    assert read.row(0).tolist() == [1, 2, 3]


def test_ids_take_two_bytes_where_they_fit() -> None:
    assert token_type(65536) is np.uint16
    assert token_type(65537) is np.uint32


@pytest.mark.parametrize("count", [1, 1 << 15, 1 << 21])
def test_a_full_disk_says_so(tmp_path: Path, count: int) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    # A device that refuses each byte as a full disk does.
    (tmp_path / "rows.bin").symlink_to("/dev/full")
    with (
        pytest.raises(OutputError, match=f"{tmp_path.name}: no space left for the tokens") as raised,
        StoreWriter(tmp_path / "rows", np.uint16) as writer,
    ):
        writer.add(np.zeros(count))
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.ENOSPC
