import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.deploy.check import check
from deploykit.deploy.check.reading import read_text
from deploykit.errors import ConfigError

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  b: c\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        CONFIG,
        f"---\n{CONFIG}---\n# nothing\n---\n",
        json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}),
        json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}, indent="\t"),
        "apiVersion: v1\nkind: List\nitems:\n- " + CONFIG.replace("\n", "\n  ").rstrip() + "\n",
        "apiVersion: v1\nkind: ConfigMapList\nitems:\n- metadata: {name: a}\n",
        "\ufeff" + CONFIG,
    ],
)
def test_reads_documents_lists_and_json(tmp_path: Path, text: str) -> None:
    checked = check([write(tmp_path / "a.yaml", text)])
    assert (checked.findings, checked.objects) == ((), 1)


@pytest.mark.parametrize(
    ("text", "rule", "place", "said"),
    [
        ("a: [1\nb: 2\n", "unreadable", ":2", "did not find"),
        (f"{CONFIG}---\nkind: x\n\tapiVersion: v1\n", "unreadable", ":9", "tabs"),
        ("kind: Pod\nspec: {{ .Values.spec }}\n---\nx: {{ a }} b\n", "unreadable", "", "helm template"),
        ("- 1\n", "no-object", ":1", "a list"),
        ("hello\n", "no-object", ":1", "a str"),
        ("a: 1\n", "no-object", ":1", "without apiVersion and kind"),
        ("", "no-objects", "a.yaml", "no object"),
        ("# nothing\n---\n", "no-objects", "a.yaml", "no object"),
        (f"{CONFIG}  d: e\n  d: f\n", "field-twice", ":8", "twice"),
        (f'{{"a": 1, "a": 2, {json.dumps(CONFIG)[:0]}"apiVersion": "v1", "kind": "X"}}', "field-twice", "", "twice"),
        ("a: &a [*a]\nkind: x\n", "unreadable", "", "without end"),
        ("a: \0\n", "unreadable", "", ""),
        ("kind: " + "[" * 500, "unreadable", "", ""),
    ],
)
def test_what_can_not_be_read_is_a_finding_with_its_line(
    tmp_path: Path, text: str, rule: str, place: str, said: str
) -> None:
    found = [each for each in check([write(tmp_path / "a.yaml", text)]).findings if each.rule == rule]
    assert found
    assert found[0].level == "error"
    assert found[0].source.endswith(place)
    assert said in found[0].why


def test_bytes_that_are_no_text_are_a_finding(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"kind: \xff")
    assert "UTF-8" in check([tmp_path / "a.yaml"]).findings[0].why


def test_aliases_that_grow_without_end_are_refused() -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    assert [each.rule for each in read_text(text, "a.yaml").findings] == ["unreadable"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-01-02", "2026-01-02"),
        ("1:30", "1:30"),
        ("0644", 420),
        ("0o644", 420),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("1_000", 1000),
        ("089", 89),
        ("yes", True),
        ("'yes'", "yes"),
        ("~", None),
        ("-.inf", float("-inf")),
        ("1.5", 1.5),
        ("v1", "v1"),
    ],
)
def test_reads_scalars_as_the_api_does(text: str, value: object) -> None:
    assert read_text(f"kind: X\nx: {text}\n", "a.yaml").resources[0].body["x"] == value


def test_merges_what_anchors_hold() -> None:
    text = "kind: X\nbase: &base {a: 1, b: 2}\nx:\n  <<: *base\n  b: 3\n"
    assert read_text(text, "a.yaml").resources[0].body["x"] == {"a": 1, "b": 3}


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#% \n\t0.,?@`~<=", max_size=60))
def test_any_text_is_read_or_a_finding(text: str) -> None:
    read_text(text, "a.yaml")


def test_findings_name_file_and_line(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 1\n    protocl: TCP\n"
    path = write(tmp_path / "a.yaml", text)
    assert [each.source for each in check([path]).findings if each.rule == "unknown-field"] == [f"{path}:7"]


def test_files_of_a_folder_and_of_one_call_are_applied_together(tmp_path: Path) -> None:
    claims = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: v}\n"
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n"
        "    image: example.com/i:1\n"
        "    env: [{name: K, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n"
    )
    one, two = write(tmp_path / "one" / "deep" / "a.yml", claims), write(tmp_path / "two.json.yaml", pod)
    write(tmp_path / "values.yaml", "not: an object\n")
    write(tmp_path / ".hidden" / "x.yaml", "- ?")
    together = [check([tmp_path]), check([one, two])]
    for checked in together:
        assert "missing-object" not in {each.rule for each in checked.findings}
        assert checked.objects == 2
    assert "missing-object" in {each.rule for each in check([two]).findings}


def test_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(CONFIG.encode())))
    assert check(["-"]).objects == 1
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert check(["-"]).failed()


def test_an_empty_folder_is_no_success(tmp_path: Path) -> None:
    assert [each.rule for each in check([tmp_path]).findings] == ["no-objects"]


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        check([tmp_path / "nothing"])


FACTS = {
    "name": "writer", "version": 1, "fingerprint": "0" * 64, "precision": "int8", "size": 1, "rows": 4, "context": 64,
    "threads": 1, "memory": {"peak": 9, "cache": 1}, "load_seconds": 1, "load_measured": True,
    "has_chat_template": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"name": 1}, "name"),
        ([], "model"),
        ({**FACTS, "rows": "x"}, "rows"),
        ({**FACTS, "rows": 0}, "rows"),
        ({**FACTS, "rows": True}, "rows"),
        ({**FACTS, "load_seconds": "1"}, "load_seconds"),
        ({**FACTS, "load_seconds": float("nan")}, "load_seconds"),
        ({**FACTS, "memory": {"peak": "x"}}, "memory"),
        ({**FACTS, "memory": {"cache": 1}}, "peak"),
        ({**FACTS, "memory": {"peak": 1, "cache": -1}}, "memory.cache"),
        ({**FACTS, "colour": 1}, "colour"),
    ],
)
def test_facts_that_are_damaged_are_an_error(tmp_path: Path, facts: object, said: str) -> None:
    write(tmp_path / "deploykit.json", json.dumps({"model": FACTS}))
    write(tmp_path / "a.yaml", CONFIG)
    known = check([tmp_path]).facts
    assert known is not None
    assert known.to_json() == FACTS
    write(tmp_path / "deploykit.json", json.dumps({"model": facts}))
    with pytest.raises(ConfigError, match=f"not as deploykit deploy wrote it.*{said}"):
        check([tmp_path])


@pytest.mark.parametrize("text", ["[1]", "{}", "[" * 100_000, "\xff", '"model"'])
def test_facts_that_are_no_mapping_are_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "deploykit.json").write_bytes(text.encode("latin-1"))
    write(tmp_path / "a.yaml", CONFIG)
    with pytest.raises(ConfigError, match="not as deploykit deploy wrote it"):
        check([tmp_path])


def test_an_object_is_named_with_its_namespace_where_two_have_its_name(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: %s}\nspec: {port: 1}\n"
    path = write(tmp_path / "a.yaml", text % "one" + "---\n" + text % "two")
    assert {each.object for each in check([path]).findings} == {"one/Service/a", "two/Service/a"}


def test_tells_of_a_helm_chart_once(tmp_path: Path) -> None:
    write(tmp_path / "shop" / "Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\n")
    for name in "abc":
        write(
            tmp_path / "shop" / "templates" / f"{name}.yaml",
            "{{- if .Values.x }}\nkind: {{ .Values.kind }}\n{{ end }}\n",
        )
    write(tmp_path / "beside.yaml", CONFIG)
    for folder, objects in ((tmp_path, 1), (tmp_path / "shop", 0), (tmp_path / "shop" / "templates", 0)):
        checked = check([folder])
        assert ([each.rule for each in checked.findings], checked.objects) == (["unreadable"], objects)
        assert "helm template shop |" in checked.findings[0].remedy
