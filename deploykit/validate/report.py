"""`report.json`: what was asked of an artifact's models, what came out, and whether that is within the limits.

The page is made of it alone (see `page`). It holds no date: the same artifact and versions give the same bytes.
Its fields:

    schema       1; raised when a field changes its meaning
    passed       whether every limit was kept
    failures     the limits that were passed, a sentence each
    warnings     the parts of the text on which a precision is past a limit, a sentence each
    versions     of deploykit, of ONNX Runtime, and of what converted the model
    model        name (what it is served as, null where nobody has said), architecture, model_type, layers, vocab_size,
                 max_context, cache; of an encoder-decoder also max_source
    limits       atol, max_kl, max_perplexity_loss
    text         name and natural, and of each label its tokens; of an encoder-decoder also its pairs, and own: whether
                 the answers are those of fp32 itself
    precisions   by precision, fp32 first:
        served, bytes                 of the graph and its data
        parity    null, or            reference, allowed, and the cases by name: for fp32 and fp16 with the largest
                                      error of a logit, for the others with the root mean square of all
        quality   null for fp32, or   perplexity, perplexity_fp32, perplexity_loss, kl, top1_agreement, tokens, trained,
                                      over
        slices    of the text         by (text, script, position), name, judged, over, and the figures of `quality`
        layers    by layer            key, value: relative error beside fp32; of an encoder-decoder also those of the
                                      source, source_key and source_value
    candidates   null, or what `--quantize auto` measured, a row each
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final, Self

from deploykit.artifact import MANIFEST, Artifact
from deploykit.config import ValidateConfig
from deploykit.errors import ArtifactError
from deploykit.spec import Precision
from deploykit.validate.quality import Quality, Text
from deploykit.validate.slices import Slice

SCHEMA: Final = 1
_ONE: Final = ("key", "value")
_PAIR: Final = (*_ONE, "source_key", "source_value")
"""What a layer caches, in the cache's order."""
CANDIDATE: Final = frozenset(
    {
        *("precision", "rounding", "block_size", "bytes", "chosen", "perplexity_loss", "kl", "top1_agreement"),
        *("tokens_per_second", "tokens_per_second_many", "prefill_tokens_per_second"),
    }
)
"""What a row of `candidates` has at least."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a precision costs in text."""

    quality: Quality
    trained: bool
    """Whether the fp32 model knows the text, so that limits count."""
    failure: str | None
    slices: tuple[Slice, ...]
    cache_errors: tuple[float, ...]
    """Relative error of each tensor of the cache, in graph order: layer 0 key, layer 0 value, and so on."""

    def over(self) -> list[Slice]:
        """Return the slices past a limit."""
        return [part for part in self.slices if part.over]

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the whole."""
        return {**self.quality.to_json(), "trained": self.trained, "over": self.failure is not None}


@dataclass(kw_only=True)
class Report:
    """Filled in while the gate runs, so that a failure leaves what was found up to it."""

    artifact: Artifact
    config: ValidateConfig
    candidates: list[Mapping[str, Any]] | None
    name: str | None = None
    """What the model is served as."""
    text: Text | None = None
    cases: dict[Precision, Mapping[str, Any]] = field(default_factory=dict)
    verdicts: dict[Precision, Verdict] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, artifact: Artifact, config: ValidateConfig, *, name: str | None = None) -> Self:
        """Return an empty report that knows what was measured when the precision was chosen, and the model's name.

        Args:
            artifact: what is validated.
            config: its limits.
            name: what the model will be served as; what it was last packaged as where None.

        Raises:
            ArtifactError: the manifest's record of that is none that a stage writes.
        """
        found = packaged = None
        for record in artifact.manifest.history:
            if record.stage == "quantize":
                found = record.result.get("candidates") or None
            if record.stage == "package":
                packaged = record.options.get("name")
        if any(not isinstance(row, Mapping) or not row.keys() >= CANDIDATE for row in found or ()):
            raise ArtifactError(
                f"{artifact.path / MANIFEST}: a row of the candidates lacks one of {', '.join(sorted(CANDIDATE))}; the "
                "file was edited, export again"
            )
        return cls(artifact=artifact, config=config, candidates=found, name=name or packaged)

    def parity(self) -> dict[str, Any]:
        """Return the figures that `manifest.json` keeps: those of the whole, and which slices are past a limit."""
        kept: dict[str, Any] = {"fp32": self.cases["fp32"]}
        for precision, verdict in self.verdicts.items():
            names = self.text.name if self.text else ""
            over = [f"{part.by} {part.name}" for part in verdict.over()]
            kept[precision] = {**verdict.to_json(), "text": names, "slices_over": over}
        return kept

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "schema": SCHEMA,
            "passed": not self.failures,
            "failures": list(self.failures),
            "warnings": list(self._warnings()),
            "versions": self._versions(),
            "model": self._model(),
            "limits": {
                "atol": self.config.atol,
                "max_kl": self.config.max_kl,
                "max_perplexity_loss": self.config.max_perplexity_loss,
            },
            "text": self.text and _text(self.text),
            "precisions": {precision: self._precision(precision) for precision in self.artifact.precisions()},
            "candidates": self.candidates,
        }

    def _versions(self) -> dict[str, str]:
        converted = next((r.versions for r in self.artifact.manifest.history if r.stage == "convert"), {})
        return {
            **{name: version(name) for name in ("deploykit", "onnxruntime")},
            **{name: converted[name] for name in ("torch", "transformers") if name in converted},
        }

    def _model(self) -> dict[str, Any]:
        manifest = self.artifact.manifest
        spec = manifest.decoder
        return {
            "name": self.name,
            "architecture": manifest.architecture,
            "model_type": manifest.model_type,
            "layers": len(spec.layers),
            "vocab_size": spec.vocab_size,
            "max_context": spec.max_context,
            "cache": spec.cache,
            **({"max_source": spec.encoder.max_source} if spec.encoder else {}),
        }

    def _precision(self, precision: Precision) -> dict[str, Any]:
        manifest = self.artifact.manifest
        verdict = self.verdicts.get(precision)
        errors = verdict.cache_errors if verdict else ()
        return {
            "served": precision == manifest.served,
            "bytes": self.artifact.size_of(precision),
            "parity": self.cases.get(precision),
            "quality": verdict and verdict.to_json(),
            "slices": [part.to_json() for part in verdict.slices] if verdict else [],
            "layers": list(_by_layer(errors, _PAIR if manifest.decoder.encoder else _ONE)),
        }

    def _warnings(self) -> Iterator[str]:
        for precision, verdict in self.verdicts.items():
            for part in verdict.over():
                quality = part.quality
                yield (
                    f"{precision} on {part.by} {part.name!r} ({quality.tokens} tokens): growth of perplexity "
                    f"{quality.perplexity_loss:+.2%}, KL {quality.kl:.2g}"
                )


def _text(text: Text) -> dict[str, Any]:
    """Return what was measured on, by label."""
    samples: dict[str, dict[str, Any]] = {}
    for sample in text.samples:
        found = samples.setdefault(sample.label, {"label": sample.label, "tokens": 0})
        found["tokens"] += len(sample.ids)
        if sample.source is not None:
            found["pairs"] = found.get("pairs", 0) + 1
    own = {"own": text.own} if any("pairs" in found for found in samples.values()) else {}
    return {"name": text.name, "natural": text.natural, **own, "samples": list(samples.values())}


def _by_layer(errors: Sequence[float], parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield each layer's errors, by what they are of."""
    for number, start in enumerate(range(0, len(errors), len(parts))):
        found = zip(parts, errors[start : start + len(parts)], strict=True)
        yield {"layer": number, **{part: float(f"{error:.4g}") for part, error in found}}
