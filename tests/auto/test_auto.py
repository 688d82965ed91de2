"""The choice of a precision: fastest within the limit, and only where quality can be judged."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from deploykit.artifact import Artifact
from deploykit.auto import Choice, candidates, choose
from deploykit.config import QuantizeConfig
from deploykit.convert import convert
from deploykit.engine.speed import Speed, measure_speed
from deploykit.errors import DeploykitError, ParityError
from deploykit.pipeline import _workshop
from deploykit.progress import silent
from deploykit.quantize import quantize


@pytest.fixture(scope="module")
def source(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return convert(tiny_llama, tmp_path_factory.mktemp("auto") / "fp32")


def fake_rounding(artifact: Artifact, out: Path, config: QuantizeConfig) -> Artifact:
    """Calibrating takes seconds that these tests have no use for."""
    return quantize(artifact, out, replace(config, rounding="rtn", sensitive=0.0))


def decide(
    source: Artifact,
    folder: Path,
    limit: float,
    losses: Mapping[str, float],
    kl: Mapping[str, float] = MappingProxyType({}),
    **rates: float,
) -> Choice:
    """Choose where `losses`, `kl` and `rates` (tokens a second) say, by precision, what is measured."""

    def quality(artifact: Artifact) -> dict[str, Any]:
        served = artifact.manifest.served
        if served not in losses:
            raise ParityError(f"logits of the {served} model: NaN or Inf")
        return {"perplexity_loss": losses[served], "kl": kl.get(served, 0.0), "top1_agreement": 1.0, "trained": True}

    def speed(artifact: Artifact) -> Speed:
        rate = rates[artifact.manifest.served]
        return Speed(prefill=rate, one=rate, many=rate)

    return choose(
        source,
        folder,
        QuantizeConfig(precision="auto", max_quality_loss=limit),
        max_kl=0.02,
        quantize=fake_rounding,
        quality=quality,
        speed=speed,
        progress=silent,
    )


@pytest.mark.parametrize(
    ("limit", "losses", "wanted"),
    [
        (0.01, {"int8": 0.0002, "int4": 0.008}, "int4"),
        (0.001, {"int8": 0.0002, "int4": 0.008}, "int8"),
        (0.0001, {"int8": 0.0002, "int4": 0.008}, "none"),
        (0.01, {"int8": float("nan"), "int4": float("nan")}, "none"),
    ],
)
def test_takes_the_fastest_that_loses_little_enough(
    source: Artifact, tmp_path: Path, limit: float, losses: dict[str, float], wanted: str
) -> None:
    choice = decide(source, tmp_path, limit, losses, fp32=10.0, int8=20.0, int4=30.0)
    assert choice.config.precision == wanted
    chosen = [row for row in choice.candidates if row["chosen"]]
    assert [row["precision"] for row in chosen] == ["fp32" if wanted == "none" else wanted]
    assert len(choice.candidates) == len(candidates(QuantizeConfig()))
    assert f"{limit:.2%}" in choice.why


def test_a_slower_model_with_fewer_bits_is_not_taken(source: Artifact, tmp_path: Path) -> None:
    choice = decide(source, tmp_path, 0.1, {"int8": 0.0, "int4": 0.0}, fp32=10.0, int8=20.0, int4=15.0)
    assert choice.config.precision == "int8"


def test_what_the_gate_would_refuse_is_not_taken(source: Artifact, tmp_path: Path) -> None:
    choice = decide(source, tmp_path, 0.1, {"int8": 0.0, "int4": 0.0}, {"int4": 0.03}, fp32=10.0, int8=20.0, int4=30.0)
    assert choice.config.precision == "int8"


def test_one_that_gives_nan_drops_out(source: Artifact, tmp_path: Path) -> None:
    choice = decide(source, tmp_path, 0.1, {"int8": 0.0}, fp32=10.0, int8=20.0)
    assert choice.config.precision == "int8"
    assert {row["precision"] for row in choice.candidates} == {"fp32", "int8"}


def test_measures_nothing_where_the_model_does_not_know_the_text(source: Artifact, tmp_path: Path) -> None:
    choice = choose(
        source,
        tmp_path,
        QuantizeConfig(precision="auto"),
        max_kl=0.02,
        quantize=fake_rounding,
        quality=lambda _: {"trained": False, "perplexity_fp32": 900.0},
        speed=measure_speed,
        progress=silent,
    )
    assert choice.config.precision == "int8"
    assert choice.candidates == ()
    assert "900" in choice.why


def test_speed_is_that_of_the_served_model(source: Artifact, tmp_path: Path) -> None:
    speed = measure_speed(quantize(source, tmp_path / "int8", QuantizeConfig(precision="int8")))
    assert min(speed.prefill, speed.one, speed.many) > 0


def test_what_auto_tries_takes_over_what_was_asked_for() -> None:
    wanted = {"more_bits": ("mlp",), "head_bits": 4, "table_bits": 8, "symmetric": False, "calibration": Path("text")}
    tried = candidates(QuantizeConfig(precision="auto", **wanted))  # type: ignore[arg-type]
    assert {one.precision for one in tried} == {"none", "int8", "int4"}
    assert all(
        (one.more_bits, one.head_bits, one.table_bits) == (("mlp",), 4, 8) for one in tried if one.precision == "int4"
    )
    assert not any(one.symmetric for one in tried if one.precision != "none")
    assert {one.calibration for one in tried if one.rounding == "gptq"} == {Path("text")}


def test_an_error_names_the_output_and_not_the_candidates_hidden_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DeploykitError) as caught, _workshop(out) as hidden:
        raise DeploykitError(f"{hidden}/auto.a_1/0/served/x: bad; {hidden}/auto.a_1/1/whole/y; {hidden}/2/z")
    assert str(caught.value) == f"{out}/x: bad; {out}/y; {out}/z"
