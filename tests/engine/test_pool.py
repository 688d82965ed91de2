"""The cache's memory: it takes what its rows need, hands back the rest under pressure, and never what still lives."""

import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.engine.pool import Pool, pages
from deploykit.spec import DecoderSpec, LayerCache

LAYERS = (LayerCache(heads=3, key_dim=64, value_dim=64), LayerCache(heads=2, key_dim=80, value_dim=48))
SPEC = DecoderSpec(cache="shared", layers=LAYERS, vocab_size=8, max_context=4096, logits_to_keep=True)
EACH = SPEC.cache_bytes_per_token()
PAGE_TABLE = Path("/proc/self/pagemap")
on_linux = pytest.mark.skipif(not PAGE_TABLE.exists(), reason="no page table to read, or not Linux")


def resident(pool: Pool) -> int:
    """Return what the pool's own pages take of this machine's memory, as the kernel counts."""
    total = 0
    with PAGE_TABLE.open("rb") as table:
        for memory in pool.memories:
            array = memory._array
            table.seek(array.ctypes.data // mmap.PAGESIZE * 8)
            entries = np.frombuffer(table.read(pages(array.nbytes) // mmap.PAGESIZE * 8), np.uint64)
            total += int((entries >> np.uint64(63)).sum()) * mmap.PAGESIZE
    return total


def process_memory() -> int:
    """Return what this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def write(pool: Pool, row: int, length: int, mark: int) -> None:
    """Let a row hold so many tokens, as a step does."""
    pool.hold(row, [length])
    for number, part in enumerate(pool.parts(row, length)):
        part[:] = mark + number


def holds(pool: Pool, row: int, length: int, mark: int) -> bool:
    return all(bool((part == mark + number).all()) for number, part in enumerate(pool.parts(row, length)))


@on_linux
def test_memory_grows_with_the_tokens_and_is_reported_as_the_kernel_counts_it() -> None:
    pool = Pool(SPEC, rows=4, capacity=1000, budget=1 << 40)
    assert pool.bytes == resident(pool) == 0
    for row, length in ((0, 1), (1, 16), (2, 17), (0, 500), (3, 1000)):
        write(pool, row, length, row)
        assert pool.bytes == resident(pool)
    assert (1 + 500 + 17 + 1000) * EACH < pool.bytes < (1 + 500 + 17 + 1000) * EACH + 4 * 10 * mmap.PAGESIZE
    pool.free(3)
    assert pool.bytes == resident(pool), "what nobody needs stays while there is room"


@on_linux
def test_long_rows_that_come_and_go_in_other_places_stay_within_the_budget() -> None:
    """Without handing back, eight rows would soon keep eight times 1500 tokens."""
    budget = 2100 * EACH
    pool = Pool(SPEC, rows=8, capacity=2048, budget=budget)
    slack = 8 * 10 * mmap.PAGESIZE
    """Each row's heads may each end within a page."""
    before = process_memory()
    for turn in range(24):
        long, short = turn % 8, (turn + 3) % 8
        for length in range(100, 1501, 200):
            write(pool, long, length, turn)
            write(pool, short, length // 4, 100 + turn)
            assert pool.bytes == resident(pool) <= budget + slack
            assert process_memory() - before <= budget + slack + (1 << 20)
        assert holds(pool, long, 1500, turn)
        assert holds(pool, short, 375, 100 + turn)
        pool.free(long)
        pool.free(short)
    assert resident(pool) > 1500 * EACH


@on_linux
def test_a_row_moves_within_the_budget() -> None:
    pool = Pool(SPEC, rows=4, capacity=1024, budget=1100 * EACH)
    write(pool, 0, 64, 1)
    write(pool, 3, 900, 2)
    pool.free(0)
    pool.move(3, 0, 900)
    assert holds(pool, 0, 900, 2)
    assert pool.bytes == resident(pool) <= 1100 * EACH
    # With room to spare the old place stays as it is, for whoever comes next.
    roomy = Pool(SPEC, rows=4, capacity=1024, budget=1 << 40)
    write(roomy, 3, 900, 2)
    roomy.move(3, 0, 900)
    assert holds(roomy, 0, 900, 2)
    assert roomy.bytes == resident(roomy) > 1800 * EACH


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["float32", "float16"]),
    st.sampled_from([LAYERS, LAYERS[:1]]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 150), st.sampled_from("wwwfm")), max_size=40),
)
def test_no_living_token_is_ever_handed_back(
    dtype: str, layers: tuple[LayerCache, ...], history: list[tuple[int, int, str]]
) -> None:
    """Rows grow, go and move under a budget that they outgrow at once, so that all slack goes all the time."""
    pool = Pool(replace(SPEC, cache_dtype=dtype, layers=layers), rows=4, capacity=150, budget=1)  # type: ignore[arg-type]
    living: dict[int, tuple[int, int]] = {}
    for mark, (row, length, what) in enumerate(history):
        if what == "f":
            living.pop(row, None)
            pool.free(row)
        elif what == "m" and row in living:
            target = next((other for other in range(4) if other not in living), None)
            if target is not None:
                living[target] = living.pop(row)
                pool.move(row, target, living[target][0])
        elif what == "w" and length >= living.get(row, (0, 0))[0]:
            write(pool, row, length, mark)
            living[row] = length, mark
        assert all(holds(pool, row, *state) for row, state in living.items())
        if PAGE_TABLE.exists():
            assert pool.bytes == resident(pool)


@pytest.mark.parametrize("size", [64, 80, 1, 96, 128])
def test_each_head_begins_a_page(size: int) -> None:
    layer = LayerCache(heads=2, key_dim=size, value_dim=64)
    pool = Pool(replace(SPEC, layers=(layer,)), rows=2, capacity=100, budget=0)
    for memory in pool.memories:
        assert memory.place(0, 2)[4] % mmap.PAGESIZE == 0
        starts = [part.ctypes.data for row in range(2) for part in memory.parts(row, 1)]
        assert all(start % mmap.PAGESIZE == 0 for start in starts)
        assert memory.place(1, 1)[4] == starts[2]
