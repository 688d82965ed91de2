"""How far a training is, when it ends and at what learning rate."""

import math

import pytest

from deploykit.train.config import OptimConfig
from deploykit.train.schedule import CHECKS, FINAL_RATE, Plan, learning_rate

PEAK = 2e-3


def rates(schedule: str, warmup: float = 0.1, points: int = 1000) -> list[float]:
    config = OptimConfig(learning_rate=PEAK, schedule=schedule, warmup=warmup)  # type: ignore[arg-type]
    return [learning_rate(point / points, config) for point in range(points + 1)]


@pytest.mark.parametrize("schedule", ["cosine", "inverse-sqrt", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_it_rises_to_the_peak_and_never_again(schedule: str, warmup: float) -> None:
    found = rates(schedule, warmup)
    top = found.index(max(found))
    assert max(found) == pytest.approx(PEAK, rel=1e-9)
    assert top == round(warmup * 1000)
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert min(found) > 0


def test_where_each_of_them_ends() -> None:
    assert rates("cosine")[-1] == pytest.approx(PEAK * FINAL_RATE)
    assert rates("constant")[-1] == PEAK
    # Four times as far as the end of the warm-up is half the rate.
    assert rates("inverse-sqrt")[400] == pytest.approx(PEAK / 2)


def test_the_cosine_is_half_way_down_in_the_middle() -> None:
    assert rates("cosine", 0.0)[500] == pytest.approx(PEAK * (1 + FINAL_RATE) / 2)


@pytest.mark.parametrize(
    ("ends", "step", "epoch", "seconds", "ended"),
    [
        ({"max_steps": 10}, 10, 0, 1.0, "max_steps"),
        ({"max_steps": 10}, 9, 3, 1e6, None),
        ({"epochs": 2}, 14, 2, 1.0, "epochs"),
        ({"epochs": 2}, 1000, 1, 1.0, None),
        ({"seconds": 5.0}, 3, 0, 5.0, "seconds"),
        ({"epochs": 2, "max_steps": 10, "seconds": 5.0}, 3, 0, 4.0, None),
        ({"epochs": 2, "max_steps": 10, "seconds": 5.0}, 3, 0, 6.0, "seconds"),
        ({"epochs": 2, "max_steps": 10, "seconds": 5.0}, 10, 1, 4.0, "max_steps"),
        ({"epochs": 1, "max_steps": 10, "seconds": 5.0}, 7, 1, 4.0, "epochs"),
    ],
)
def test_it_ends_by_whichever_is_reached_first(
    ends: dict[str, float], step: int, epoch: int, seconds: float, ended: str | None
) -> None:
    plan = Plan(OptimConfig(**ends), steps_an_epoch=7)  # type: ignore[arg-type]
    assert plan.ended(step, epoch, seconds) == ended


def test_the_schedule_follows_the_nearest_end() -> None:
    plan = Plan(OptimConfig(epochs=2, max_steps=10, seconds=100.0), steps_an_epoch=7)
    assert plan.done(5, 1.0) == 0.5  # 10 steps come before 2 epochs of 7
    assert plan.done(5, 80.0) == 0.8
    assert plan.done(50, 1.0) == 1.0
    assert Plan(OptimConfig(epochs=2), steps_an_epoch=5).done(5, 1e9) == 0.5


def looks(config: OptimConfig, steps: int) -> list[int]:
    plan, found = Plan(config, steps_an_epoch=7), list[int]()
    for step in range(1, steps + 1):
        if plan.validates(step, plan.done(step, 0.0), looks=len(found), epoch_over=step % 7 == 0):
            found.append(step)
    return found


def test_it_validates_after_epochs_or_steps_or_a_few_times_in_all() -> None:
    assert looks(OptimConfig(epochs=3), 21) == [7, 14, 21]
    assert looks(OptimConfig(epochs=3, eval_steps=4), 21) == [4, 8, 12, 16, 20]
    # The last of them is that at the end, which always takes place.
    assert looks(OptimConfig(max_steps=50), 50) == [math.ceil(50 * part / CHECKS) for part in range(1, CHECKS)]
