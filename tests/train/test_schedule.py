"""The learning rate over a training."""

import pytest

from deploykit.config import TrainConfig
from deploykit.train.schedule import FINAL_RATE, WARM_UP, Budget, learning_rate


def test_it_rises_to_the_peak_and_falls() -> None:
    rates = [learning_rate(done / 1000, 2.0) for done in range(1001)]
    top = rates.index(max(rates))
    assert top == pytest.approx(WARM_UP * 1000, abs=1)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[top] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(2.0 * FINAL_RATE)
    assert rates[0] > 0


def test_steps_are_the_budget_where_they_are_limited() -> None:
    budget = Budget(TrainConfig(max_steps=10, seconds=1))
    assert [budget.used(steps) / budget.total for steps in (0, 5, 10, 11)] == [0, 0.5, 1, 1]
