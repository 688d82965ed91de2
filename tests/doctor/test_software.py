"""What is installed, and how it fits together."""

from collections.abc import Mapping

import pytest

from deploykit.doctor.finding import worst
from deploykit.doctor.software import check_software, installed, local_triton, onnxruntimes, ranges, threads


def having(**packages: str) -> Mapping[str, str]:
    return {name.replace("_", "-"): version for name, version in packages.items()}


def test_this_environment_has_no_error() -> None:
    assert worst(check_software(environment={})) != "error"


def test_both_onnx_runtimes_at_once() -> None:
    (found,) = onnxruntimes(having(onnxruntime="1.32.0", onnxruntime_gpu="1.31.1").get)
    assert found.level == "error"
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1" in found.found
    assert "pip uninstall" in found.remedy


@pytest.mark.parametrize(("name", "level"), [("onnxruntime", "ok"), ("onnxruntime-gpu", "ok"), ("neither", "note")])
def test_one_onnx_runtime_or_none(name: str, level: str) -> None:
    (found,) = onnxruntimes({name: "1.32.0"}.get)
    assert found.level == level


def test_a_package_older_than_its_range() -> None:
    found = [f for f in check_software(having(numpy="1.20.0").get, {}) if f.what == "numpy"]
    assert [(f.level, f.found) for f in found] == [("error", f"1.20.0 is older than {ranges()['numpy']}")]


def test_the_ranges_are_those_of_the_metadata() -> None:
    assert {"click", "numpy", "onnxruntime", "tokenizers", "nvidia-pytriton"} <= set(ranges())
    assert "pytest" not in ranges()
    assert installed("no-such-package") is None


@pytest.mark.parametrize(
    ("numpy", "libc", "said"),
    [
        ("2.1.0", ("glibc", "2.36"), "string tensors break with numpy 2"),
        ("1.26.4", ("glibc", "2.31"), "glibc 2.31, and its Python backend needs 2.35"),
    ],
)
def test_what_breaks_the_local_triton(numpy: str, libc: tuple[str, str], said: str) -> None:
    found = list(local_triton(having(nvidia_pytriton="0.7.0", numpy=numpy).get, libc=libc))
    assert any(f.level == "error" and said in f.found and f.remedy for f in found)


def test_without_the_wheel_nothing_is_said_of_it() -> None:
    assert not list(local_triton(having(numpy="2.1.0").get))


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({}, "ok"),
        ({"OMP_NUM_THREADS": "1"}, "note"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "warning"),
        ({"OMP_WAIT_POLICY": "passive"}, "ok"),
    ],
)
def test_variables_that_slow_things_down(environment: dict[str, str], level: str) -> None:
    assert worst(threads(environment)) == level
