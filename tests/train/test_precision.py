"""In which numbers products are computed."""

from pathlib import Path

import pytest
import torch
from tiny_trainer import options, texts, trainer

from deploykit.train.precision import multiplies_bf16, products


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("model name\t: a processor with bf16", False),
    ],
)
def test_the_processor_says_whether_it_multiplies_bf16(tmp_path: Path, line: str, found: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    assert multiplies_bf16(torch.device("cpu"), tmp_path / "cpuinfo") is found
    assert not multiplies_bf16(torch.device("cpu"), tmp_path / "none")


def test_products_are_in_bf16_where_asked_for_and_in_fp32_else() -> None:
    one = torch.ones(2, 2)
    for compute, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with products(compute, one.device):  # type: ignore[arg-type] # a list's literals are strings to mypy
            assert (one @ one).dtype == kind


def test_bf16_trains_nearly_as_fp32_does_and_keeps_its_weights_in_fp32(tmp_path: Path) -> None:
    losses = {}
    for compute in ("fp32", "bf16"):
        fit = trainer(tmp_path / compute, options(max_steps=12, compute=compute)).fit(texts(), texts(8, seed=1))
        losses[compute] = fit.losses
        weights = torch.load(tmp_path / compute / "last" / "weights.pt", weights_only=True)
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
