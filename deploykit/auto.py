"""`--quantize auto`: candidates measured here, for speed and for quality; the fastest that loses little enough wins.

The stages it measures with are handed in, so that only `pipeline` knows them.
"""

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from deploykit.artifact import Artifact
from deploykit.config import Quantization, QuantizeConfig
from deploykit.draft import draft
from deploykit.engine.speed import Speed
from deploykit.errors import ParityError
from deploykit.progress import Progress

ROUNDS: Final = 3
"""Times that each candidate's speed is measured, in turns: a busy machine slows all of them alike."""
FALLBACK: Final[Quantization] = "int8"
"""Taken where the text says nothing about the model, so that no candidate's quality can be judged."""


Quantize = Callable[[Artifact, Path, QuantizeConfig], Artifact]
"""Writes an artifact with a candidate as its served precision."""
Quality = Callable[[Artifact], Mapping[str, Any]]
"""Measures the served precision beside fp32: `perplexity_loss`, `kl`, `top1_agreement`, and `trained`, which says
whether the model knows the text at all. It raises ParityError where there is nothing but NaN to measure."""
MeasureSpeed = Callable[[Artifact], Speed]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and the table that shows why."""

    config: QuantizeConfig
    why: str
    candidates: tuple[Mapping[str, Any], ...]


@dataclass(kw_only=True)
class _Candidate:
    """One way to quantize, and what was measured of it."""

    config: QuantizeConfig
    served: Artifact
    """Its served files alone, small enough to keep while the others are measured."""
    size: int
    quality: Mapping[str, Any]
    speeds: list[Speed] = field(default_factory=list)

    @property
    def one(self) -> float:
        return statistics.median(speed.one for speed in self.speeds)

    @property
    def many(self) -> float:
        return statistics.median(speed.many for speed in self.speeds)

    @property
    def score(self) -> float:
        """Geometric mean of the speeds alone and in company: neither a lone user nor a crowd is forgotten."""
        return float((self.one * self.many) ** 0.5)

    def row(self, *, chosen: bool) -> dict[str, Any]:
        return {
            "precision": "fp32" if self.config.precision == "none" else self.config.precision,
            "rounding": self.config.rounding,
            "block_size": self.config.block_size,
            "sensitive": self.config.sensitive,
            "perplexity_loss": self.quality.get("perplexity_loss", 0.0),
            "kl": self.quality.get("kl", 0.0),
            "top1_agreement": self.quality.get("top1_agreement", 1.0),
            "tokens_per_second": round(self.one, 1),
            "tokens_per_second_many": round(self.many, 1),
            "prefill_tokens_per_second": round(statistics.median(speed.prefill for speed in self.speeds), 1),
            "bytes": self.size,
            "chosen": chosen,
        }


def candidates(config: QuantizeConfig, *, calibrated: bool = True) -> list[QuantizeConfig]:
    """Return what is measured: precisions that keep activations in fp32 between products.

    Args:
        config: options that they share.
        calibrated: whether there is a text to round by; else int4 is rounded by HQQ.
    """
    int8 = QuantizeConfig(precision=FALLBACK, symmetric=config.symmetric)
    int4 = replace(
        int8,
        precision="int4",
        more_bits=config.more_bits,
        head_bits=config.head_bits,
        table_bits=config.table_bits,
    )
    gptq = replace(int4, rounding="gptq", calibration=config.calibration)
    better = [replace(gptq, sensitive=10.0), replace(gptq, block_size=128, sensitive=25.0)]
    return [
        QuantizeConfig(precision="none"),
        int8,
        replace(int8, block_size=128),
        int4,
        *(better if calibrated else [replace(int4, rounding="hqq", symmetric=False)]),
    ]


def choose(
    source: Artifact,
    folder: Path,
    config: QuantizeConfig,
    *,
    max_kl: float,
    quantize: Quantize,
    quality: Quality,
    speed: MeasureSpeed,
    progress: Progress,
) -> Choice:
    """Return the fastest candidate whose perplexity grows by at most `config.max_quality_loss`, within `max_kl`.

    fp32 is among them, so there always is one. A model that the text says nothing about gets int8.

    Args:
        source: an artifact with an fp32 graph.
        folder: an empty one for the candidates, on the artifact's file system; what is written there may go.
        config: the limit, and options that the candidates share.
        max_kl: mean KL divergence from fp32 past which the artifact would be refused, in nats a token.
        quantize: writes a candidate.
        quality: measures what it costs.
        speed: measures how fast it runs.
        progress: told which candidate is measured.

    Raises:
        DeploykitError: of the stages handed in.
    """
    measured: list[_Candidate] = []
    # An encoder-decoder is calibrated on pairs, which nobody has without being given them.
    pairs = source.manifest.decoder.encoder is not None
    wanted = candidates(config, calibrated=not pairs or config.calibration is not None)
    for number, one in enumerate(wanted):
        progress("measure quality", number, len(wanted), _name(one))
        candidate = _prepare(source, folder / str(number), one, quantize, quality)
        if candidate is None:
            continue
        if candidate.quality.get("trained") is False:
            return _unjudged(config, candidate)
        measured.append(candidate)
    progress("measure quality", len(wanted), len(wanted))
    for number in range(ROUNDS):
        for place, candidate in enumerate(measured):
            done = number * len(measured) + place
            progress("measure speed", done, ROUNDS * len(measured), _name(candidate.config))
            candidate.speeds.append(speed(candidate.served))
    progress("measure speed", ROUNDS * len(measured), ROUNDS * len(measured))
    return _fastest(measured, config.max_quality_loss, max_kl)


def _prepare(
    source: Artifact, folder: Path, config: QuantizeConfig, quantize: Quantize, quality: Quality
) -> _Candidate | None:
    """Write a candidate, measure what it costs, and keep only the files that serve it; None where it gives NaN."""
    made = quantize(source, folder / "whole", config)
    try:
        found = quality(made) if config.precision != "none" else {}
    except ParityError:
        return None
    own = made.files_of()
    with draft(folder / "served") as sheet:
        kept = [name for name in made.manifest.files if not name.startswith("onnx/") or name in own]
        sheet.carry(made, kept, link=True)
        served = sheet.commit(made.manifest)
    shutil.rmtree(made.path)
    return _Candidate(config=config, served=served, size=made.size_of(), quality=found)


def _fastest(measured: Sequence[_Candidate], limit: float, max_kl: float) -> Choice:
    # Written so that NaN is never within a limit.
    within = [
        one
        for one in measured
        if one.quality.get("perplexity_loss", 0.0) <= limit and one.quality.get("kl", 0.0) <= max_kl
    ]
    best = max(within, key=lambda one: one.score)
    return Choice(
        config=best.config,
        why=f"the fastest of {len(within)} candidates that lose at most {limit:.2%} of perplexity, "
        f"with a KL of at most {max_kl:g}",
        candidates=tuple(one.row(chosen=one is best) for one in measured),
    )


def _unjudged(config: QuantizeConfig, candidate: _Candidate) -> Choice:
    perplexity = candidate.quality.get("perplexity_fp32", float("nan"))
    return Choice(
        config=QuantizeConfig(precision=FALLBACK, symmetric=config.symmetric),
        why=f"{FALLBACK}, unmeasured: the model doesn't know the text (perplexity {perplexity:.4g}), so that no "
        "loss of quality would show; pass a --text like those it was trained on",
        candidates=(),
    )


def _name(config: QuantizeConfig) -> str:
    if config.precision == "none":
        return "fp32"
    kept = f", sensitive {config.sensitive:g} %" if config.sensitive else ""
    return f"{config.precision}, block {config.block_size}, {config.rounding}{kept}"
