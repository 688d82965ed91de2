"""What `deploykit serve` says about a model."""

from typing import Any

import pytest

from deploykit.cli.serve import tell_model

FACTS = {
    "version": "3",
    "precision": "int8",
    "mode": "deterministic",
    "rows": 16,
    "context": 2048,
    "cache_bytes": 3 * 2**29,
    "threads": 4,
    "quality": {},
}
FAST = {"precision": "dynamic-int8", "mode": "throughput"}


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        ({}, ["model    writer (version 3): int8, deterministic, 16 rows of 2048 tokens in 1.5 GiB, 4 threads"]),
        ({"threads": 1, "rows": 1, "cache_bytes": 1000}, ["... 1 row of 2048 tokens in 1000 B, 1 thread"]),
        (FAST, ["...4 threads", "...was not measured on a text that the model knows"]),
        (
            {**FAST, "quality": {"perplexity_loss": 0.0123, "kl": 0.0015, "top1_agreement": 0.98}},
            ["...4 threads", "...: perplexity +1.23% beside fp32, KL 1.5e-03"],
        ),
    ],
)
def test_a_line_for_each_model_and_one_more_for_what_its_mode_costs(
    facts: dict[str, Any], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tell_model("writer", {**FACTS, **facts})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(lines)
    for line, expected in zip(said, lines, strict=True):
        assert line.endswith(expected.removeprefix("...").lstrip()), line
        assert expected.startswith("...") or line == expected
