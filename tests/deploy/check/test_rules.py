import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_examples import alerts, correct, findings, keda, monitor, scaled, scaler

from deploykit.deploy.check.rules import RULES

JUNK = [None, True, -1, 0, 2**70, 1.5, "", "x", "10%", "8080", [], ["x"], [None], {}, {"x": None}, [[1]], {"name": 3}]


def paths(body: object, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [before, *(path for key, value in inner for path in paths(value, (*before, key)))]


SET = [*scaled(keda()), scaler(), alerts(), monitor()]
PLACES = [path for path in paths(SET) if len(path) > 1]


def put(place: tuple[Any, ...], value: object) -> list[dict[str, Any]]:
    objects: Any = copy.deepcopy(SET)
    holder = objects
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return objects  # type: ignore[no-any-return]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(JUNK))
def test_no_rule_breaks_over_a_value_of_the_wrong_kind(place: tuple[Any, ...], value: object) -> None:
    for finding in findings(put(place, value)):
        assert finding.line()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("value", JUNK, ids=repr)
def test_no_rule_breaks_over_this_value_anywhere(value: object) -> None:
    for place in PLACES:
        assert all(finding.line() for finding in findings(put(place, value)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_says_in_a_line_what_the_mistake_is(rule: Any) -> None:
    first = (rule.__doc__ or "").partition("\n")[0]

    assert first.endswith(".")
    assert 20 < len(first) < 120


def test_no_two_rules_share_a_name() -> None:
    names = [rule.__name__ for rule in RULES]

    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("objects", [correct(), scaled(scaler()), scaled(keda()), [*correct(), alerts(), monitor()]])
def test_leaves_a_correct_set_alone(objects: list[dict[str, Any]]) -> None:
    assert findings(objects) == []
