"""A training, seen: TensorBoard, a profile, pictures."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_trainer import llama, options, texts, trainer

from deploykit.train.record import Fit, Record
from deploykit.train.watch.attention import attention_picture
from deploykit.train.watch.curve import loss_curve, smoothed
from deploykit.train.watch.trace import CHROME, DEAREST, TABLE


def png_size(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fit, EventAccumulator]:
    """A training that was logged, and its log."""
    folder = tmp_path_factory.mktemp("board")
    fit = trainer(folder / "out", options(epochs=2), llama(), tensorboard=folder / "log").fit(texts(), texts(8, seed=1))
    log = EventAccumulator(str(folder / "log"))
    log.Reload()
    return fit, log


def test_tensorboard_gets_the_log(board: tuple[Fit, EventAccumulator]) -> None:
    fit, log = board
    for tag, values in (
        ("val/loss", [record.val_loss for record in fit.log]),
        ("val/perplexity", [record.metrics["perplexity"] for record in fit.log]),
        ("train/mean_loss", [record.train_loss for record in fit.log]),
    ):
        points = log.Scalars(tag)
        assert [point.step for point in points] == [record.step for record in fit.log]
        assert [point.value for point in points] == pytest.approx(values)
    assert [(point.step, point.value) for point in log.Scalars("train/loss")] == [
        (1, pytest.approx(fit.losses[0])),
        (10, pytest.approx(fit.losses[9])),
    ]
    assert len(log.Scalars("train/learning_rate")) == len(log.Scalars("train/tokens_per_second")) == 2


def test_tensorboard_gets_texts_and_an_attention_map(board: tuple[Fit, EventAccumulator]) -> None:
    fit, log = board
    samples = log.Tensors("samples/1/text_summary")
    assert len(samples) == len(fit.log)
    assert b"**Prompt**" in samples[0].tensor_proto.string_val[0]
    (first, last) = log.Images("attention/decoder")
    assert png_size(first.encoded_image_string) == png_size(last.encoded_image_string)
    assert first.encoded_image_string != last.encoded_image_string


def test_a_trace_holds_a_timeline_and_the_dearest_operators(tmp_path: Path) -> None:
    trainer(tmp_path / "out", options(epochs=2), trace=tmp_path / "trace").fit(texts(), texts(8, seed=1))
    names = {event.get("name", "") for event in json.loads((tmp_path / "trace" / CHROME).read_text())["traceEvents"]}
    assert "aten::addmm" in names
    assert any(name.startswith("Optimizer.step") for name in names)
    table = (tmp_path / "trace" / TABLE).read_text()
    rows = [line for line in table.splitlines() if "::" in line or "Optimizer" in line or "Backward" in line]
    assert len(rows) == DEAREST
    assert "Self CPU time total" in table


def test_a_training_shorter_than_the_profile_still_leaves_one(tmp_path: Path) -> None:
    trainer(tmp_path / "out", options(max_steps=4), trace=tmp_path / "trace").fit(texts(), texts(8, seed=1))
    assert (tmp_path / "trace" / TABLE).read_text().count("aten::") > 3


def record(step: int, loss: float) -> Record:
    common: dict[str, Any] = {"epoch": 1.0, "seconds": 1.0, "tokens": 1, "learning_rate": 1.0, "train_loss": 1.0}
    return Record(step=step, val_loss=loss, metrics={}, **common)


def test_the_loss_curve_is_a_picture_that_changes_with_the_losses(tmp_path: Path) -> None:
    pictures = []
    for scale in (1.0, 0.5):
        log = (record(50, 3.0), record(100, 2.0 * scale))
        losses = tuple(4 * scale ** (step / 50) for step in range(100))
        common: dict[str, Any] = {"seconds": 1.0, "training_seconds": 1.0, "tokens": 1, "padding": 0.0}
        fit = Fit(log=log, best=log[1], losses=losses, steps=100, epochs=2.0, stopped="epochs", **common)
        loss_curve(fit, tmp_path / "loss.png")
        pictures.append((tmp_path / "loss.png").read_bytes())
    assert png_size(pictures[0]) == png_size(pictures[1]) == (864, 480)
    assert pictures[0] != pictures[1]


def test_a_curve_of_many_steps_is_their_means() -> None:
    steps, losses = smoothed([float(step) for step in range(1, 1001)], points=100)
    assert len(steps) == len(losses) == 100
    # Each point lies at the middle of the ten steps whose mean it is.
    assert losses == pytest.approx(steps)
    assert smoothed([5.0, 7.0]) == ([1.0, 2.0], [5.0, 7.0])


def test_an_attention_map_shows_dark_where_much_is_looked_at() -> None:
    weights = np.zeros((2, 3, 3), np.float32)
    weights[0, :, 0] = weights[1, :, 2] = 1.0
    picture = attention_picture(weights, ["a", "b", "c"], ["$x", "你好", "\x07 z"], title="cross")
    assert picture.dtype == np.uint8
    blue = (picture[..., 2].astype(int) - picture[..., 0] > 60).nonzero()[1]
    # The first head's dark column is left in its half, the second head's right in the other.
    gap = picture.shape[1] // 2
    assert (blue < gap).any()
    assert (blue > gap).any()
    other = attention_picture(weights[::-1].copy(), ["a", "b", "c"], ["$x", "你好", "\x07 z"], title="cross")
    assert other.shape == picture.shape
    assert (other != picture).any()
