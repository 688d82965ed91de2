"""A training in several processes, and one that is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_trainer import options, plain, texts, trainer

from deploykit.train.distributed import World, joined, share
from deploykit.train.parts import Batch
from deploykit.train.record import Fit
from deploykit.train.state import read_state

SCRIPT = Path(__file__).parents[1] / "train_tiny.py"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "CUDA_VISIBLE_DEVICES": "",
}


def alone(folder: Path, dropout: float = 0.0, **optim: Any) -> Fit:
    return trainer(folder, options(**optim), plain(dropout=dropout)).fit(texts(21, size=5), texts(9, seed=1, size=4))


def test_two_processes_take_the_steps_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process leads another one; no torchrun, which takes longer than they do."""
    optim = {"max_steps": 4}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    other = [sys.executable, str(SCRIPT), str(tmp_path), json.dumps(optim)]
    with subprocess.Popen(other, env={**ENVIRONMENT, **group, "RANK": "1"}) as second:
        for name, value in {**group, "RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        with joined() as place:
            assert place == World(rank=0, size=2)
            first = alone(tmp_path / "two", **optim)
        assert second.wait(timeout=60) == 0
    assert json.loads((tmp_path / "fit.1.json").read_text())["losses"] == list(first.losses)
    assert first.losses == pytest.approx(alone(tmp_path / "one", **optim).losses, rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(300)  # seconds on a quiet machine
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    optim = {"epochs": 3, "accumulate": 2, "label_smoothing": 0.1}
    (tmp_path / "two").mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(SCRIPT), str(tmp_path / "two"), json.dumps(optim)],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert "Warning" not in done.stderr
    one = alone(tmp_path / "one", **optim)
    first, second = (json.loads((tmp_path / "two" / f"fit.{rank}.json").read_text()) for rank in (0, 1))
    # Each process knows the whole training, and they know the same of it.
    assert first["losses"] == second["losses"]
    assert [line["val_loss"] for line in first["log"]] == [line["val_loss"] for line in second["log"]]
    assert first["losses"] == pytest.approx(list(one.losses), rel=1e-4)
    assert [line["val_loss"] for line in first["log"]] == pytest.approx([r.val_loss for r in one.log], rel=1e-4)
    assert [line["metrics"] for line in first["log"]] == [pytest.approx(dict(r.metrics), rel=1e-4) for r in one.log]
    assert first["tokens"] == one.tokens
    # Only the first one writes.
    names = {file.name for file in (tmp_path / "two").iterdir()}
    assert names == {"best", "last", "fit.0.json", "fit.1.json"}


def killed_in_mid_training(folder: Path, optim: dict[str, Any]) -> None:
    """Start a training and kill it some steps after a state was saved."""
    state = folder / "last" / "state.pt"
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(folder), json.dumps(optim)], env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 200
        seen = set[int]()
        while len(seen) < 3 and time.monotonic() < deadline and process.poll() is None:
            if state.exists():
                seen.add(state.stat().st_ino)
            time.sleep(0.005)
        time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"


@pytest.mark.slow
@pytest.mark.timeout(300)  # seconds on a quiet machine
def test_a_killed_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    optim = {"epochs": 40, "eval_steps": 7, "dropout": 0.1}
    folder = tmp_path / "killed"
    folder.mkdir()
    killed_in_mid_training(folder, optim)
    behind = read_state(folder / "last" / "state.pt").place.step
    assert 0 < behind < 200
    config, model = options(epochs=40, eval_steps=7), plain(dropout=0.1)
    resumed = trainer(folder, config, model).fit(texts(21, size=5), texts(9, seed=1, size=4), resume=True)
    whole = alone(tmp_path / "whole", **optim)
    assert resumed.losses == whole.losses
    assert [record.val_loss for record in resumed.log] == [record.val_loss for record in whole.log]
    assert not list(folder.glob(".*.partial"))


def rows(count: int) -> Batch:
    return next(texts(count, size=8).in_order())


@pytest.mark.parametrize(("count", "size"), [(8, 2), (7, 3), (2, 4), (1, 1)])
def test_each_row_is_one_processs(count: int, size: int) -> None:
    batch = rows(count)
    parts = [share(batch, World(rank=rank, size=size)) for rank in range(size)]
    assert sum(part.rows for part, weight in parts if weight) == count
    found = sorted(row for part, weight in parts if weight for row in part.inputs["input_ids"].tolist())
    assert found == sorted(batch.inputs["input_ids"].tolist())
    # A process that got none has a row to compute, which counts nothing.
    assert all(part.rows == 1 for part, weight in parts if not weight)
    assert {weight for _, weight in parts} == ({0.0, 1.0} if size > count else {1.0})
