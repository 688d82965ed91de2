"""What a stranger's manifests may hold: none of it ends the linter, nor keeps it busy."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.deploy.check import check, reading
from deploykit.deploy.check.reading import read_text
from deploykit.deploy.check.yaml_nodes import YamlError, documents

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize("text", ["a: " + "[" * 100_000, "[" * 100_000, '{"a":' * 50_000, "a: " + "- " * 50_000])
def test_what_is_nested_deep_does_not_end_the_process(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text(text)
    code = "import sys; from deploykit.deploy.check import check; print(check(sys.argv[1:]).findings[0].line())"
    done = subprocess.run([sys.executable, "-c", code, path], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.count("[unreadable]")) == (0, 1), done.stderr


@pytest.mark.parametrize("depth", [150, 900])
def test_json_may_be_nested_no_deeper_than_yaml(depth: int) -> None:
    text = json.dumps({"kind": "X", "x": None}).replace("null", "[" * depth + "]" * depth)
    assert [each.rule for each in read_text(text, "a.json").findings] == ["unreadable"]


def test_documents_before_one_that_is_too_deep_are_read() -> None:
    found = read_text(f"{CONFIG}---\nkind: X\nx: {'[' * 200}{']' * 200}\n---\n{CONFIG}", "a.yaml")
    assert len(found.resources) == 1
    assert [each.source for each in found.findings] == ["a.yaml:6"]


@pytest.mark.parametrize("text", ["._", "0b_", "0x_", "0o_", "0x", "_", "-._", "+0b", "1_x"])
def test_a_number_has_a_digit(text: str) -> None:
    assert [each.value for each in documents(f"x: {text}\n")] == [{"x": text}]


@pytest.mark.parametrize(("text", "value"), [("0b_1", 1), ("._5", 0.5), ("-0x_f", -15), ("0o_7_", 7), ("!!float 1", 1)])
def test_signs_may_stand_between_digits(text: str, value: object) -> None:
    assert [each.value for each in documents(f"x: {text}\n")] == [{"x": value}]


@pytest.mark.parametrize(
    "text", ["!!int abc", "!!float x", "!!int ''", "!!float .", "!!bool x", "!!int 1.5", "!!null x", "!!int 0b2"]
)
def test_a_tag_that_its_value_does_not_fit_is_told_with_its_line(text: str) -> None:
    with pytest.raises(YamlError, match="tagged as") as told:
        list(documents(f"a: 1\nx: {text}\n"))
    assert told.value.line == 2


@given(
    st.sampled_from(["", "!!int ", "!!float ", "!!bool ", "!!null ", "!!str ", "!!binary ", "!!timestamp "]),
    st.text(alphabet="0123456789abxXoOBeE._+-:infaN'~", max_size=12),
)
def test_any_scalar_is_read_or_told(tag: str, text: str) -> None:
    for found in read_text(f"kind: X\nx: {tag}{text}\n", "a.yaml").findings:
        assert found.rule == "unreadable"


def test_paths_below_a_long_name_are_not_kept() -> None:
    text = "kind: X\n? " + "k" * 20_000 + "\n:\n" + "- a\n" * 2_000
    (found,) = documents(text)
    assert sum(map(len, found.lines)) < 1_000
    assert len(found.value["k" * 20_000]) == 2_000


def test_aliases_of_many_documents_are_counted_together() -> None:
    one = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 4))
    assert read_text(f"kind: X\n{one}", "a.yaml").findings == ()
    assert [each.rule for each in read_text("---\n".join([f"kind: X\n{one}"] * 20), "a.yaml").findings] == [
        "unreadable"
    ]


def took(text: str, source: str = "a.yaml") -> float:
    begun = time.process_time()
    read_text(text, source)
    return time.process_time() - begun


def test_time_grows_with_the_number_of_items_alone() -> None:
    one = "- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}\n  data: {a: b, c: d}\n"
    # Half a second, and a quarter of a minute where time grows with their square.
    assert took(f"apiVersion: v1\nkind: List\nitems:\n{one * 2_400}") < 6


def test_time_grows_with_the_number_of_json_names_alone() -> None:
    assert took(json.dumps({"kind": "X", "data": {f"k{index}": "" for index in range(40_000)}})) < 6


def test_items_have_their_own_lines() -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n- kind: A\n  x: 1\n- kind: B\n  items[0]: 2\n  y: [3,\n  4]\n"
    lines = [dict(each.lines) for each in read_text(text, "a.yaml").resources]
    assert lines == [{"": 4, "kind": 4, "x": 5}, {"": 6, "kind": 6, "items[0]": 7, "y": 8, "y[0]": 8, "y[1]": 9}]


def test_a_text_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_BYTES", 1_000)
    long = f"{CONFIG}data: {{a: {'b' * 1_000}}}\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(long.encode())))
    (tmp_path / "a.yaml").write_text(long)
    for path in ("-", tmp_path / "a.yaml", tmp_path):
        (found,) = check([path]).findings
        assert (found.rule, found.why) == ("unreadable", "it has more than 32 MiB")
