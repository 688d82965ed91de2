"""What `validate` found, each figure with its limit and a verdict."""

from collections.abc import Mapping
from typing import Any

from deploykit.artifact import Manifest


def describe_quality(manifest: Manifest) -> list[dict[str, Any]]:
    """Return an entry for each precision that was validated: figures, limits, and `verdict`.

    The verdict is `passed`, `failed`, or `not judged` for a model that has learnt nothing of the text.
    """
    limits = next((r.options for r in reversed(manifest.history) if r.stage == "validate"), {})
    return [
        _parity(precision, found) if "cases" in found else _text(precision, found, limits)
        for precision, found in manifest.parity.items()
        if isinstance(found, Mapping)
    ]


def _parity(precision: str, found: Mapping[str, Any]) -> dict[str, Any]:
    errors = [float(case["max_abs_error"]) for case in found["cases"].values() if "max_abs_error" in case]
    worst, allowed = max(errors, default=float("nan")), float(found.get("allowed", float("nan")))
    figures = [_figure("max |onnx - reference|", worst, allowed)]
    return {
        "precision": precision,
        "reference": found.get("reference"),
        "cases": len(found["cases"]),
        "figures": figures,
        "verdict": _verdict(figures, judged=True),
    }


def _text(precision: str, found: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    figures = [
        _figure(name, float(found[name]), limits.get(limit))
        for name, limit in (("perplexity_loss", "max_perplexity_loss"), ("kl", "max_kl"))
        if name in found
    ]
    figures += [_figure(name, float(found[name]), None) for name in ("perplexity", "top1_agreement") if name in found]
    return {
        "precision": precision,
        "text": found.get("text"),
        "tokens": found.get("tokens"),
        "figures": figures,
        "verdict": _verdict(figures, judged=bool(found.get("trained"))),
    }


def _figure(name: str, value: float, limit: Any) -> dict[str, Any]:
    # Written so that NaN is past every limit.
    past = limit is not None and not value <= float(limit)
    return {"name": name, "value": value, "limit": None if limit is None else float(limit), "past": past}


def _verdict(figures: list[dict[str, Any]], *, judged: bool) -> str:
    if not judged:
        return "not judged"
    return "failed" if any(figure["past"] for figure in figures) else "passed"
