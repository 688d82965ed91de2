"""What a machine is, from the files that say it."""

from pathlib import Path

import pytest

import deploykit.cgroup as cgroup
from deploykit.doctor.finding import worst
from deploykit.doctor.machine import check_machine, gpu, has_dot_product, instructions, memory_figures, overflows_int8


def test_this_machine_has_cores_and_memory(tmp_path: Path) -> None:
    findings = list(check_machine(tmp_path))
    assert worst(findings) != "error"
    assert {"cores", "memory", "disk", "GPU"} <= {finding.what for finding in findings}
    assert memory_figures()["total"] >= memory_figures()["available"] > 0


@pytest.mark.parametrize(
    ("text", "machine", "level", "said", "dot"),
    [
        (
            "model name : EPYC\nflags : sse avx2 fma avx512f avx512_vnni\n",
            "x86_64",
            "ok",
            "EPYC: avx2, fma, avx512f",
            True,
        ),
        ("model name : old\nflags : sse avx2 fma\n", "x86_64", "note", "no int8 dot product", False),
        ("model name : older\nflags : sse2\n", "x86_64", "warning", "none of avx2", False),
        ("Features : fp asimd asimddp i8mm sve\n", "aarch64", "ok", "asimddp, i8mm, sve", True),
        ("", "x86_64", "note", "can't be told", False),
    ],
)
def test_instruction_sets(tmp_path: Path, text: str, machine: str, level: str, said: str, dot: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    found = instructions(file, machine)
    assert (found.level, said in found.found) == (level, True), found
    assert has_dot_product(file) == dot
    # An unknown processor is not accused.
    assert overflows_int8(file, machine) == (not dot and bool(text))


@pytest.mark.parametrize(
    ("cpu", "memory", "cores", "limit"),
    [("150000 100000", "1073741824", 1.5, 1 << 30), ("max 100000", "max", None, None), (None, None, None, None)],
)
def test_limits_of_a_container(
    tmp_path: Path, cpu: str | None, memory: str | None, cores: float | None, limit: int | None
) -> None:
    for name, text in (("cpu.max", cpu), ("memory.max", memory)):
        if text is not None:
            (tmp_path / name).write_text(f"{text}\n")
    assert cgroup.cpu_quota(tmp_path) == cores
    assert cgroup.memory_limit(tmp_path) == limit


def test_a_gpu_without_its_driver(tmp_path: Path) -> None:
    assert gpu(tmp_path).found.startswith("none")
    (tmp_path / "nvidia0").touch()
    found = gpu(tmp_path)
    # With a driver the machine's own GPU is named instead.
    assert found.level in {"warning", "note", "ok"}
    assert "nvidia0" in found.found or "," in found.found
