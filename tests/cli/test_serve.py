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
BEGINNING = "model    writer (version 3): int8, deterministic"
FAST = {"precision": "dynamic-int8", "mode": "throughput"}


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        ({}, [f"{BEGINNING}, 16 rows of up to 2048 tokens, 1.5 GiB of cache, 4 threads"]),
        ({"threads": 1, "rows": 1, "cache_bytes": 1000}, ["... 1 row of up to 2048 tokens, 1000 B of cache, 1 thread"]),
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
