"""The loop as a whole, on tiny models."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_trainer import Rows, Writer, continuing, options, plain, texts, trainer

from deploykit.errors import OutputError, TrainError
from deploykit.train.record import Fit, Record
from deploykit.train.state import STATE
from deploykit.train.trainer import Trainer
from deploykit.train.validation import Validation

VAL = texts(8, seed=1)


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    fit = trainer(tmp_path, options(epochs=4)).fit(texts(), VAL)
    assert fit.stopped == "epochs"
    assert (fit.steps, fit.epochs, len(fit.losses)) == (24, 4.0, 24)
    assert [record.step for record in fit.log] == [6, 12, 18, 24]
    assert [record.epoch for record in fit.log] == [1, 2, 3, 4]
    assert fit.log[-1].val_loss < fit.log[0].val_loss - 0.5
    assert fit.best is fit.log[-1]
    tokens = sum(len(row) for row, _ in texts().rows)
    assert [record.tokens for record in fit.log] == [tokens * epoch for epoch in range(1, 5)]
    assert 0 < fit.padding < 0.5


def test_the_training_loss_is_the_mean_over_the_labels_since_the_line_before(tmp_path: Path) -> None:
    # One batch an epoch: the line's figure is that of the step.
    fit = trainer(tmp_path, options(epochs=3)).fit(texts(4), VAL)
    assert [record.train_loss for record in fit.log] == pytest.approx(list(fit.losses))


def test_best_and_last_are_whole_checkpoints_of_what_the_log_says(tmp_path: Path) -> None:
    # Four rows are soon learned by heart, which is no help with others.
    config = options(epochs=16, learning_rate=0.03, schedule="constant")
    fit = trainer(tmp_path, config).fit(texts(4), VAL)
    assert fit.best is not fit.log[-1]
    assert fit.best.val_loss == min(record.val_loss for record in fit.log)
    for name, record in (("best", fit.best), ("last", fit.log[-1])):
        model = plain(seed=1)
        model.load_state_dict(torch.load(tmp_path / name / "weights.pt", weights_only=True))
        look = Validation(model, continuing(config), config.optim, VAL, torch.device("cpu"))
        assert look.scores().loss == pytest.approx(record.val_loss, rel=1e-5), name
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best", "last"]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_accumulated_batches_count_as_one(tmp_path: Path, smoothing: float) -> None:
    # Rows of several lengths: the mean of the batches' means would be another figure.
    rows = texts(22).rows
    whole, parts = (
        trainer(tmp_path / str(size), options(epochs=2, accumulate=12 // size, label_smoothing=smoothing), model).fit(
            Rows(rows, size), VAL
        )
        for size, model in ((12, plain(dropout=0.0)), (3, plain(dropout=0.0)))
    )
    assert parts.steps == whole.steps == 4
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    assert parts.best.val_loss == pytest.approx(whole.best.val_loss, rel=1e-4)


def test_patience_ends_it(tmp_path: Path) -> None:
    fit = trainer(tmp_path, options(epochs=50, learning_rate=0.3, schedule="constant", patience=2)).fit(texts(), VAL)
    assert fit.stopped == "patience"
    assert fit.steps < 300
    assert fit.log.index(fit.best) == len(fit.log) - 3


def test_seconds_end_it_between_two_epochs(tmp_path: Path) -> None:
    fit = trainer(tmp_path, options(seconds=1.0)).fit(texts(), VAL)
    assert fit.stopped == "seconds"
    assert 1.0 <= fit.seconds < 30
    assert len(fit.log) <= 5
    assert fit.log[-1].step == fit.steps


def test_the_same_seed_gives_the_same_losses_and_leaves_the_callers_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    model = plain()
    torch.random.set_rng_state(before)
    first = trainer(tmp_path / "a", options(epochs=2), model).fit(texts(), VAL)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert trainer(tmp_path / "b", options(epochs=2)).fit(texts(), VAL).losses == first.losses


def interrupted(folder: Path, step: int, **optim: object) -> None:
    trainer(folder, options(schedule="constant", max_steps=step, **optim)).fit(texts(), VAL)


@pytest.mark.parametrize("optim", [{}, {"accumulate": 4}, {"optimizer": "adam", "label_smoothing": 0.1}])
def test_it_goes_on_as_if_it_had_never_stopped(tmp_path: Path, optim: dict[str, object]) -> None:
    config = options(schedule="constant", epochs=3, **optim)
    whole = trainer(tmp_path / "whole", config).fit(texts(), VAL)
    folder = tmp_path / "parts"
    interrupted(folder, 3, **optim)
    resumed = trainer(folder, config, plain(seed=1)).fit(texts(), VAL, resume=True)
    assert resumed.losses == whole.losses
    assert resumed.steps == whole.steps
    assert resumed.tokens == whole.tokens
    assert resumed.log[-1].val_loss == whole.log[-1].val_loss


def test_a_training_that_is_over_is_over_when_resumed(tmp_path: Path) -> None:
    first = trainer(tmp_path, options(epochs=2)).fit(texts(), VAL)
    again = trainer(tmp_path, options(epochs=2)).fit(texts(), VAL, resume=True)
    assert again.losses == first.losses
    assert again.log == first.log


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_loss_that_is_no_number_ends_it_and_costs_no_checkpoint(tmp_path: Path) -> None:
    interrupted(tmp_path, 6)
    before = contents(tmp_path)
    wild = options(schedule="constant", epochs=9, learning_rate=1e25, warmup=0)
    with pytest.raises(TrainError, match=r"became (nan|inf) in step \d+, at a learning rate of 1e\+25; lower --lear"):
        trainer(tmp_path, wild).fit(texts(), VAL, resume=True)
    assert contents(tmp_path) == before


def test_a_validation_loss_that_is_no_number_ends_it_too(tmp_path: Path) -> None:
    interrupted(tmp_path, 6)
    before = contents(tmp_path)
    wild = options(schedule="constant", epochs=9, learning_rate=3e38, warmup=0, eval_steps=1)
    with pytest.raises(TrainError, match=r"the validation loss became (nan|inf) after step 7; lower --learning-rate"):
        trainer(tmp_path, wild).fit(texts(), VAL, resume=True)
    assert contents(tmp_path) == before


class Full(Writer):
    """Writes into a folder whose disk has no more room for the state."""

    def __call__(self, folder: Path) -> None:
        super().__call__(folder)
        (folder / STATE).symlink_to("/dev/full")


def test_a_full_disk_costs_no_checkpoint(tmp_path: Path) -> None:
    interrupted(tmp_path, 6)
    before = contents(tmp_path / "last")
    config, model = options(schedule="constant", epochs=9), plain()
    full = Trainer(model, continuing(config), config, folder=tmp_path, write=Full(model))
    with pytest.raises(OutputError, match=r"state\.pt: can't be written: No space left on device; make room"):
        full.fit(texts(), VAL, resume=True)
    assert contents(tmp_path / "last") == before
    assert trainer(tmp_path, config).fit(texts(), VAL, resume=True).steps == 54


@pytest.mark.parametrize(
    ("size", "train", "match"),
    [
        (24, texts(), r"table\.weight is \[32, 16\], in the model to train \[32, 24\]; resume with"),
        (16, texts(20), r"begun with 24 training examples, now there are 20; resume with"),
        (16, texts(size=8), r"begun with 6 steps an epoch, now there are 3; resume with"),
    ],
)
def test_a_resume_with_other_sizes_is_refused(tmp_path: Path, size: int, train: Rows, match: str) -> None:
    interrupted(tmp_path, 3)
    before = contents(tmp_path)
    with pytest.raises(TrainError, match=rf"last/state\.pt: {match}"):
        trainer(tmp_path, options(epochs=2), plain(width=size)).fit(train, VAL, resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("lost", [1, 5_000, 10**9])
def test_a_state_cut_short_is_named_and_left_where_it_is(tmp_path: Path, lost: int) -> None:
    interrupted(tmp_path, 3)
    file = tmp_path / "last" / STATE
    whole = file.read_bytes()
    file.write_bytes(whole[: max(len(whole) - lost, 0)])
    before = contents(tmp_path)
    with pytest.raises(
        TrainError, match=r"state\.pt: [\d,]+ bytes that are no whole training state.*cut short perhaps"
    ):
        trainer(tmp_path, options(epochs=2)).fit(texts(), VAL, resume=True)
    assert contents(tmp_path) == before


def test_without_a_state_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"last/state\.pt: no such file, so there is nothing to resume"):
        trainer(tmp_path, options(epochs=1)).fit(texts(), VAL, resume=True)


def test_a_state_can_not_run_code(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    torch.save({"format": 1, "weights": Fit}, tmp_path / "last" / STATE)
    with pytest.raises(TrainError, match=r"no whole training state \(UnpicklingError\)"):
        trainer(tmp_path, options(epochs=1)).fit(texts(), VAL, resume=True)


def test_who_listens_can_end_it(tmp_path: Path) -> None:
    heard: list[Record] = []

    def listen(record: Record) -> None:
        heard.append(record)
        if len(heard) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, options(epochs=5), heard=listen).fit(texts(), VAL)
    assert [record.step for record in heard] == [6, 12]
    # What it had come to is kept.
    assert trainer(tmp_path, options(epochs=5)).fit(texts(), VAL, resume=True).log[:2] == tuple(heard)


def test_progress_tells_loss_speed_and_time_left(tmp_path: Path) -> None:
    notes: list[tuple[float, float, str]] = []
    fit = trainer(
        tmp_path,
        options(seconds=1.5),
        progress=lambda what, done, total, note="": notes.append((done, total, f"{what}: {note}")),
    ).fit(texts(), VAL)
    assert all(re.fullmatch(r"train: loss \d\.\d{3}, [\d,]+ tokens/s, 0:0\d left", note) for _, _, note in notes[:-1])
    assert all(done < total for done, total, _ in notes[:-1])
    assert len(notes) > 3
    done, total, note = notes[-1]
    assert done == total
    assert f"loss {fit.log[-1].train_loss:.3f}" in note


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".best.0123abcd.partial").mkdir()
    trainer(tmp_path, options(max_steps=1)).fit(texts(), VAL)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best", "last"]


def test_data_without_a_batch_or_a_label_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="training data gives no batch"):
        trainer(tmp_path, options(epochs=1)).fit(Rows([]), VAL)
    shutil.rmtree(tmp_path)
    with pytest.raises(TrainError, match=r"validation data holds nothing to measure on.*--val-split"):
        trainer(tmp_path, options(epochs=1)).fit(texts(), Rows([]))
