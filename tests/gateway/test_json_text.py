"""What is not even parsed, and that looking takes a time in proportion to its length."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.gateway.json_text import MAX_DEPTH, MAX_DIGITS, complaint

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_takes_every_json_that_is_neither_deep_nor_long(value: Any) -> None:
    assert complaint(json.dumps(value, ensure_ascii=False).encode()) is None
    assert complaint(json.dumps(value).encode()) is None


@pytest.mark.parametrize("text", ["[" * 200, "]" * 200, "\\", '\\"', '"', "{[" * 99 + '\\"', "9" * 1000, "\\\\"])
def test_takes_anything_within_a_string(text: str) -> None:
    body = json.dumps({"prompt": text, "more": [{}] * 100, "last": text}).encode()
    assert complaint(body) is None
    assert json.loads(body)["last"] == text


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"prompt": "\xff"}', "not UTF-8: its byte 12"),
        (b'{"prompt": "\xc3"}', "not UTF-8"),
        (b'{"prompt": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), "not UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16-le"), "NUL"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested deeper than 64"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested deeper than 64"),
        (b'"\\"' + b"[" * 99, None),
        (b'"\\\\"' + b"[" * 99, "nested deeper than 64"),
        (b"[" * 200_000, "nested deeper than 64"),
        (b'{"seed": ' + b"1" * (MAX_DIGITS + 1) + b"}", "more than 400 digits"),
        (b'{"seed": "' + b"1" * (MAX_DIGITS + 1) + b'"}', None),
        (b'{"seed": ' + b"1" * MAX_DIGITS + b"}", None),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, None),
    ],
)
def test_says_what_is_wrong(body: bytes, told: str | None) -> None:
    said = complaint(body)
    assert said is None if told is None else told in (said or "")


MEGABYTES = 2 * 2**20


@pytest.mark.parametrize(
    "piece",
    [b"[", b"[]", b"[1],", b'{"a":', b'"', b'\\"', b'"\\', b"9" * MAX_DIGITS + b",", b"[{", b'"a",[', b"\\"],
)
def test_looks_at_two_megabytes_of_anything_in_a_moment(piece: bytes) -> None:
    body = b"[" * 65 + piece * (MEGABYTES // len(piece))
    began = time.process_time()
    complaint(body)
    # A hundredfold of what it takes: only what grows with the square of the length takes longer.
    assert time.process_time() - began < 2
