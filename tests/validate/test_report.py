"""The report: JSON and one page that needs nothing else, on success and on failure."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, append, constant, without

from deploykit.artifact import Artifact, StageRecord
from deploykit.cli import console
from deploykit.config import PackageConfig, QuantizeConfig, ValidateConfig
from deploykit.errors import ArtifactError, ConfigError, OutputError, ParityError
from deploykit.optimize import optimize
from deploykit.package import package
from deploykit.quantize import quantize
from deploykit.spec import REPORT, REPORT_PAGE
from deploykit.validate import Reference, render, validate
from deploykit.validate.decoder import FloatArray, IntArray
from deploykit.validate.page import change, number, percent
from deploykit.validate.report import Report

FEW = ValidateConfig(tokens=300)


class Page(HTMLParser):
    """A page's tags, attributes and tables; complains of a tag that isn't closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data.strip()

    def table(self, *head: str) -> list[list[str]]:
        """Return the rows below the one head that begins so."""
        (found,) = [table[1:] for table in self.tables if tuple(table[0][: len(head)]) == head]
        return found


@pytest.fixture(scope="session")
def judged(int8: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("report")
    return validate(quantize(int8, folder / "both", QuantizeConfig(precision="int4")), folder / "out", None, FEW)


@pytest.fixture(scope="session")
def report(judged: Artifact) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((judged.path / REPORT).read_text())
    return data


def test_page_and_data_lie_in_the_artifact_and_are_hashed(judged: Artifact, report: dict[str, Any]) -> None:
    assert {REPORT, REPORT_PAGE} <= Artifact.open(judged.path).manifest.files.keys()
    assert (judged.path / REPORT_PAGE).read_text() == render(report)


def test_the_same_artifact_gives_the_same_bytes(judged: Artifact, tmp_path: Path) -> None:
    again = validate(judged, tmp_path / "again", None, FEW)
    for name in (REPORT, REPORT_PAGE):
        assert again.manifest.files[name] == judged.manifest.files[name]


def test_the_page_needs_nothing_else(judged: Artifact) -> None:
    text = (judged.path / REPORT_PAGE).read_text()
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not {"src", "href", "srcset", "data"} & {name for name, _ in page.attributes}
    for reference in ("://", "url(", "@import", "javascript:"):
        assert reference not in text
    assert len(text) < 200_000


def test_every_plot_has_its_figures_as_a_table(judged: Artifact, report: dict[str, Any]) -> None:
    page = Page((judged.path / REPORT_PAGE).read_text())
    assert page.tags.count("svg") == page.tags.count("details") == 4
    precisions = {name: found for name, found in report["precisions"].items() if found["quality"]}
    assert set(precisions) == {"int8", "int4"}
    assert page.table("layer") == [
        [str(at), *(number(found["layers"][at][part]) for found in precisions.values() for part in ("key", "value"))]
        for at in range(report["model"]["layers"])
    ]
    positions = [[part for part in found["slices"] if part["by"] == "position"] for found in precisions.values()]
    assert page.table("context") == [
        [parts[0]["name"], str(parts[0]["tokens"]), *(number(part["kl"]) for part in parts)]
        for parts in zip(*positions, strict=True)
    ]
    assert page.table("slice")[0] == [
        "all",
        *(percent(one["quality"]["top1_agreement"]) for one in precisions.values()),
    ]
    for row, found in zip(page.table("precision", "perplexity")[1:], precisions.values(), strict=True):
        assert row[2] == change(found["quality"]["perplexity_loss"])


def test_the_slices_and_cases_are_all_there(judged: Artifact, report: dict[str, Any]) -> None:
    page = Page((judged.path / REPORT_PAGE).read_text())
    cases = [name for found in report["precisions"].values() for name in found["parity"]["cases"]]
    assert [row[0] for row in page.table("case")] == cases
    assert "cached steps, ragged, in place" in report["precisions"]["int4"]["parity"]["cases"]
    tables = [table[1:] for table in page.tables if table[0][0] == "part"]
    assert [[row[0] for row in table] for table in tables] == [
        [part["name"] for part in report["precisions"][name]["slices"]] for name in ("int8", "int4")
    ]


def test_the_manifest_keeps_what_the_report_says(judged: Artifact, report: dict[str, Any]) -> None:
    for name in ("int8", "int4"):
        kept = judged.manifest.parity[name]
        quality = report["precisions"][name]["quality"]
        assert {key: kept[key] for key in quality} == quality
    assert judged.manifest.parity["fp32"] == report["precisions"]["fp32"]["parity"]


def test_the_page_names_the_model_and_what_made_it_and_no_date(judged: Artifact, report: dict[str, Any]) -> None:
    assert report["model"]["name"] is None
    assert list(report["versions"]) == ["deploykit", "onnxruntime", "torch", "transformers"]
    assert f"<title>{report['model']['architecture']}: validation passed</title>" in render(report)
    record = StageRecord(stage="package", options={"name": "greeter"}, versions={}, result={})
    packaged = Artifact(judged.path, replace(judged.manifest, history=(*judged.manifest.history, record)))
    for name, shown in ((None, "greeter"), ("writer", "writer")):
        model = Report.of(packaged, FEW, name=name).to_json()["model"]
        text = render({**report, "model": model})
        assert f"<title>{shown}: validation passed</title>" in text
        assert f"<h1>{shown}</h1>" in text
        assert f"made with deploykit {report['versions']['deploykit']}, ONNX Runtime " in text


def test_limits_are_named_as_such(judged: Artifact, report: dict[str, Any]) -> None:
    text = (judged.path / REPORT_PAGE).read_text()
    results, limits = text.index("<h2>Precisions</h2>"), text.index("<h2>Limits</h2>")
    for name, value in (("max_kl", "at most 0.02<"), ("max_perplexity_loss", "at most +2.00 %<")):
        assert report["limits"][name] == 0.02
        assert limits < text.index(value) < results


def test_fp32_has_its_perplexity(judged: Artifact, report: dict[str, Any]) -> None:
    row = Page((judged.path / REPORT_PAGE).read_text()).table("precision", "size")[0]
    assert row[0] == "fp32"
    assert row[2] == f"{report['precisions']['int8']['quality']['perplexity_fp32']:.5g}"


def test_every_table_scrolls_in_a_place_of_its_own(judged: Artifact) -> None:
    text = (judged.path / REPORT_PAGE).read_text()
    tables = text.count("<table>")
    assert tables > 6
    assert text.count('<div class="scroll" role="region" tabindex="0" aria-label="table"><table>') == tables


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", '"><b x="', "a & b"])
def test_labels_are_escaped(label: str, report: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(report).replace("English prose", json.dumps(label)[1:-1]))
    text = render(changed)
    page = Page(text)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.table("slice")[1][0] == label


def test_a_failure_writes_the_page_where_it_was_asked_for_and_nothing_else(judged: Artifact, tmp_path: Path) -> None:
    def bias(graph: ir.Graph) -> None:
        append(graph, "logits", "Add", constant(graph, "bias", np.array(np.nan, np.float32)))

    source = altered(judged, tmp_path / "source", bias, precision="int4")
    config = replace(FEW, report=tmp_path / "why.html")
    with pytest.raises(ParityError) as caught:
        validate(source, tmp_path / "out", None, config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "why.html"]
    assert caught.value.__notes__ == [f"report: {tmp_path / 'why.html'}"]
    text = (tmp_path / "why.html").read_text()
    assert "<strong>Failed</strong>" in text
    assert "logits of the int4 model" in text
    # What was found before it failed is there.
    assert {row[1] for row in Page(text).table("case")} == {"fp32", "int8"}


def test_a_failure_before_anything_was_measured_has_a_page(judged: Artifact, tmp_path: Path) -> None:
    def other_model(ids: IntArray) -> FloatArray:
        return np.zeros((len(ids), judged.manifest.decoder.vocab_size), np.float32)

    with pytest.raises(ParityError, match="in case 'prefill'"):
        validate(judged, None, lambda: other_model, replace(FEW, report=tmp_path / "why.html"))
    page = Page((tmp_path / "why.html").read_text())
    assert "svg" not in page.tags
    assert page.table("case") == []
    assert [row[-1] for row in page.table("precision", "size")] == [
        "beside the reference",
        "not measured",
        "not measured",
    ]


def test_random_tokens_have_a_page_and_are_not_judged(judged: Artifact, tmp_path: Path) -> None:
    bare = validate(without(judged, tmp_path / "bare", "tokenizer.json"), tmp_path / "out", None, FEW)
    page = Page((bare.path / REPORT_PAGE).read_text())
    assert {row[-1] for table in page.tables if table[0][0] == "part" for row in table[1:]} == {"no"}
    assert [row[0] for row in page.table("slice")][:3] == ["all", "random tokens", "unknown"]


def test_the_page_is_written_on_success_too(int8: Artifact, tmp_path: Path) -> None:
    validate(int8, None, None, replace(FEW, report=tmp_path / "page.html"))
    assert "<strong>Passed</strong>" in (tmp_path / "page.html").read_text()


def test_a_page_that_cant_be_written_is_an_output_error(int8: Artifact, tmp_path: Path) -> None:
    def never() -> Reference:
        raise AssertionError

    with pytest.raises(OutputError, match=r"no/page\.html: can't be written: there is no such folder"):
        validate(int8, None, never, replace(FEW, report=tmp_path / "no" / "page.html"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"folder: can't be written: it is no regular file; choose another --report"):
        validate(int8, None, None, replace(FEW, report=tmp_path / "folder"))


def test_what_broke_off_for_another_reason_says_nothing(int8: Artifact, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    config = replace(FEW, text=tmp_path / "text", report=tmp_path / "page.html")
    with pytest.raises(ConfigError, match="text: can't be read"):
        validate(int8, None, None, config)
    assert not (tmp_path / "page.html").exists()


def test_what_is_past_a_limit_is_red_on_the_page_and_in_the_terminal(judged: Artifact, report: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(report))
    part = changed["precisions"]["int8"]["slices"][1]
    part["judged"] = part["over"] = True
    changed["warnings"] = ["int8 on text"]
    text = render(changed)
    assert text.count('<tr class="over">') == 1
    assert "<p>int8 on text</p>" in text
    assert '<tr class="over">' not in render(report)
    manifest = replace(
        judged.manifest,
        parity={
            **judged.manifest.parity,
            "int8": {**judged.manifest.parity["int8"], "slices_over": ["text Python code"]},
        },
    )
    rows = dict(console.quality_rows(Artifact(judged.path, manifest)))
    assert rows["int8 quality"].startswith("\x1b[31m")
    assert "past a limit on text Python code" in rows["int8 quality"]
    assert "\x1b" not in rows["int4 quality"]
    assert f", on {report['text']['name']}" in rows["int4 quality"]


def test_measured_candidates_are_shown(judged: Artifact, report: dict[str, Any]) -> None:
    row = {
        "precision": "int4",
        "rounding": "hqq",
        "block_size": 128,
        "head_bits": 8,
        "perplexity_loss": 0.004,
        "kl": 0.003,
        "top1_agreement": 0.94,
        "tokens_per_second": 183.4,
        "tokens_per_second_many": 450.0,
        "prefill_tokens_per_second": 741.0,
        "bytes": 98_000_000,
        "chosen": True,
    }
    record = StageRecord(stage="quantize", options={}, versions={}, result={"candidates": [row]})
    chosen = Artifact(judged.path, replace(judged.manifest, history=(*judged.manifest.history, record)))
    found = Report.of(chosen, FEW).to_json()["candidates"]
    page = Page(render({**report, "candidates": found}))
    assert page.table("candidate") == [
        ["int4 hqq, block 128 ✓", "183.4", "450.0", "741", "+0.40 %", "0.003", "94.0 %", "98.0 MB"]
    ]
    assert report["candidates"] is None


def test_a_row_that_no_stage_writes_is_one_line(judged: Artifact) -> None:
    record = StageRecord(stage="quantize", options={}, versions={}, result={"candidates": [{"precision": 3}]})
    edited = Artifact(judged.path, replace(judged.manifest, history=(*judged.manifest.history, record)))
    with pytest.raises(ArtifactError, match="candidates lacks one of") as caught:
        Report.of(edited, FEW)
    assert "\n" not in str(caught.value)


def test_a_stage_that_changes_a_graph_leaves_the_report_behind(judged: Artifact, tmp_path: Path) -> None:
    quantized = quantize(judged, tmp_path / "quantized", QuantizeConfig(precision="dynamic-int8"))
    for later in (quantized, optimize(judged, tmp_path / "optimized")):
        assert not {REPORT, REPORT_PAGE} & later.manifest.files.keys()


def test_the_report_is_packaged_beside_the_model(judged: Artifact, tmp_path: Path) -> None:
    files = package(judged, tmp_path / "packaged", PackageConfig(name="tiny")).manifest.files
    for folder in ("", "model_repository/tiny/1/"):
        for name in (REPORT, REPORT_PAGE):
            assert files[f"{folder}{name}"] == judged.manifest.files[name]
