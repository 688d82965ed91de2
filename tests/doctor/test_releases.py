"""The table of Triton releases, and what an image needs."""

from pathlib import Path

import pytest

from deploykit.doctor.finding import worst
from deploykit.doctor.image import check_image
from deploykit.doctor.releases import RELEASES, find_release, version
from deploykit.errors import ConfigError


def test_newer_releases_have_newer_parts() -> None:
    names = list(RELEASES)
    assert names == sorted(names)
    for part in ("server", "onnxruntime", "python", "cuda"):
        numbers = [version(getattr(release, part)) for release in RELEASES.values()]
        assert numbers == sorted(numbers), part


@pytest.mark.parametrize(
    ("name", "said"), [("26.99", "known: 24.08 to"), ("latest", "a release is YY.MM"), ("", "YY.MM")]
)
def test_an_unknown_release_is_one_line_that_lists_those_known(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find_release(name)


@pytest.mark.parametrize(
    ("name", "level", "said"),
    [("26.07", "ok", "ONNX Runtime 1.27.0"), ("25.06", "error", "CVE-2025-23319"), ("24.10", "error", "Python 3.10")],
)
def test_an_image_must_be_safe_and_have_our_python(name: str, level: str, said: str) -> None:
    findings = list(check_image(find_release(name)))
    assert worst(findings) == level
    assert any(said in finding.found and finding.level == level for finding in findings)


@pytest.mark.parametrize(
    ("text", "numbers"), [("1.27.0", (1, 27, 0)), ("1.23.0+1d17", (1, 23, 0)), ("2.13.0+cpu", (2, 13, 0)), ("", (0,))]
)
def test_reads_versions(text: str, numbers: tuple[int, ...]) -> None:
    assert version(text) == numbers


def test_the_documentation_holds_the_same_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "versions.md").read_text()
    for r in RELEASES.values():
        assert f"| {r.name} | {r.server} | {r.onnxruntime} | {r.python} | {r.cuda} |" in text
