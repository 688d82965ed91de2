import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.deploy.check.patterns import matches


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+c", "(a*)*c", "(a|aa)+c", "(?:a+){9,}c", "((a?)b?)*c", "a?" * 40 + "a" * 40, "(.*)*", "(?:(?:a|b)|a)*c",
        ".*" * 9 + "c", "(a+)+?c", "([^b]+)*c", "(?P<n>a+)+c", "(\\w+)*c", "a{1,}" * 9 + "c", "(?=(a+)+)a*c",
    ],
)  # fmt: skip
def test_what_may_take_for_ever_is_left_alone(pattern: str) -> None:
    begun = time.process_time()
    assert matches(pattern, "a" * 45) is None
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("writer", "writer", True),
        ("writer", "writers", False),
        (".*-writer-.*", "a-writer-b", True),
        ("a.*|b.*|c.*|d.*|e.*|f.*", "f12345678901234567890", True),
        ("(foo|bar)-(x|y)?", "bar-", True),
        ("[(a+)+]*", "(a)+", True),
        (r"\(\+\)", "(+)", True),
        ("(ab)+", "ababab", True),
        ("[]a]+", "]a", True),
        ("5..", "503", True),
        ("(", "(", None),
        ("a{2}", "aa", True),
    ],
)
def test_others_are_run(pattern: str, text: str, expected: bool | None) -> None:
    assert matches(pattern, text) is expected


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@given(st.text(alphabet="ab().*+?|[]^\\{}1,:", max_size=40), st.text(alphabet="ab", max_size=40))
def test_any_pattern_is_answered_soon_and_as_python_does(pattern: str, text: str) -> None:
    begun = time.process_time()
    found = matches(pattern, text)
    assert time.process_time() - begun < 0.5
    if found is not None:
        assert found == bool(re.fullmatch(pattern, text))
