"""`report.html`: the report as one page that needs nothing else, made of `report.json` alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from deploykit.validate.plots import ceiling, dots, legend, lines

TEMPLATE: Final = Path(__file__).with_name("report.html.jinja")
_KINDS: Final = {"text": "text", "script": "script", "position": "context"}
"""What slices of each kind are called in a table's head."""

_LAYER_NOTE: Final = (
    "Root mean square of the difference of a layer's keys (solid) and values (dashed) from fp32's, over theirs. A "
    "layer's own damage shows in its keys and values; what the rest of it does wrong shows in the next."
)
_SOURCE_NOTE: Final = (
    "The same of the keys and values that a layer has of the source: what the encoder does wrong shows in all layers, "
    "and a layer's own damage in it alone."
)
_TOOLS: Final = {"onnxruntime": "ONNX Runtime", "torch": "PyTorch"}
"""Names of tools where they aren't their packages'."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing, what its colours mean, and the same figures as a table."""

    title: str
    note: str
    svg: Markup
    legend: Sequence[tuple[str, str]]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def render(report: Mapping[str, Any]) -> str:
    """Return the page of a report, as `report.json` holds it; the same report gives the same bytes."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, change=change, number=number, size=size)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    judged = {name: found for name, found in report["precisions"].items() if found["quality"]}
    plots = [*_plots(judged, report["limits"]), *_candidates(report["candidates"] or [])]
    return template.render(
        report=report,
        judged=judged,
        plots=plots,
        kinds=_KINDS,
        title=report["model"]["name"] or report["model"]["architecture"],
        made_with=", ".join(f"{_TOOLS.get(name, name)} {version}" for name, version in report["versions"].items()),
        baseline=next((found["quality"]["perplexity_fp32"] for found in judged.values()), None),
    )


def percent(share: float) -> str:
    """Return a share as `98.7 %`."""
    return f"{share:.1%}".replace("%", " %")


def change(share: float) -> str:
    """Return a relative change as `+0.02 %`."""
    # No sign before what is nothing once it is rounded.
    return f"{share:+.2%}".replace("%", " %").replace("-0.00", "0.00").replace("+0.00", "0.00")


def number(value: float) -> str:
    """Return a figure with the three digits that matter."""
    return f"{value:.3g}"


def size(count: float) -> str:
    """Return bytes as `1.6 MB`."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _plots(judged: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Plot]:
    """Yield what shows where the quantized models differ from fp32."""
    if judged:
        yield _by_layer(judged)
        if "source_key" in next(iter(next(iter(judged.values()))["layers"]), {}):
            yield _by_layer(judged, of="source_")
        yield _by_position(judged)
        yield _agreement(judged)
        yield _perplexity(judged, limits["max_perplexity_loss"])


def _by_layer(judged: Mapping[str, Any], of: str = "") -> Plot:
    series = {
        f"{name}{suffix}": [layer[f"{of}{part}"] for layer in found["layers"]]
        for name, found in judged.items()
        for part, suffix in (("key", ""), ("value", ", values"))
    }
    ticks = [str(layer["layer"]) for layer in next(iter(judged.values()))["layers"]]
    drawn = lines(
        series, ticks, across="layer", up="error", form=number, label="Error of keys and values beside fp32, by layer"
    )
    return Plot(
        title="Error by layer, of the source" if of else "Error by layer",
        note=_SOURCE_NOTE if of else _LAYER_NOTE,
        svg=Markup(drawn),  # noqa: S704 - built by ElementTree, which escapes
        legend=legend(list(judged)),
        head=["layer", *(f"{name} {part}" for name in judged for part in ("keys", "values"))],
        rows=[[tick, *(number(values[at]) for values in series.values())] for at, tick in enumerate(ticks)],
    )


def _by_position(judged: Mapping[str, Any]) -> Plot:
    found = {name: _slices(one, "position") for name, one in judged.items()}
    ticks = [part["name"] for part in next(iter(found.values()))]
    series = {name: [part["kl"] for part in parts] for name, parts in found.items()}
    drawn = lines(
        series,
        ticks,
        across="tokens of context before the one foretold",
        up="KL",
        form=number,
        label="KL divergence from fp32, by position",
    )
    return Plot(
        title="Error by position",
        note="Mean KL divergence from fp32, in nats a token, by how much text stands before a token.",
        svg=Markup(drawn),  # noqa: S704 - as above
        legend=legend(list(judged)),
        head=["context", "tokens", *judged],
        rows=[
            [tick, str(next(iter(found.values()))[at]["tokens"]), *(number(values[at]) for values in series.values())]
            for at, tick in enumerate(ticks)
        ],
    )


def _agreement(judged: Mapping[str, Any]) -> Plot:
    rows = {
        "all": {name: one["quality"]["top1_agreement"] for name, one in judged.items()},
        **{
            _full_name(part): {name: one["slices"][at]["top1_agreement"] for name, one in judged.items()}
            for at, part in enumerate(next(iter(judged.values()))["slices"])
        },
    }
    lowest = min(value for row in rows.values() for value in row.values())
    low = next((edge for edge in (0.96, 0.92, 0.8, 0.6) if edge <= lowest), 0.0)
    drawn = dots(rows, low=low, high=1.0, form=percent, label="Agreement of the best token with fp32", limit=None)
    return Plot(
        title="Agreement",
        note="How often the most likely next token is the one that fp32 finds most likely.",
        svg=Markup(drawn),  # noqa: S704 - as above
        legend=legend(list(judged)),
        head=["slice", *judged],
        rows=[[row, *map(percent, found.values())] for row, found in rows.items()],
    )


def _perplexity(judged: Mapping[str, Any], limit: float) -> Plot:
    losses = {name: one["quality"]["perplexity_loss"] for name, one in judged.items()}
    high = ceiling(max(limit, *losses.values()))
    drawn = dots(
        {name: {name: loss} for name, loss in losses.items()},
        low=0.0,
        high=high,
        form=change,
        label="Growth of perplexity by precision",
        limit=limit,
    )
    return Plot(
        title="Perplexity by precision",
        note=f"Growth of perplexity beside fp32, less than nothing drawn as nothing; the dashed line is the limit, "
        f"{change(limit)}.",
        svg=Markup(drawn),  # noqa: S704 - as above
        legend=(),
        head=["precision", "perplexity", "growth"],
        rows=[
            ["fp32", number_long(next(iter(judged.values()))["quality"]["perplexity_fp32"]), ""],
            *(
                [name, number_long(judged[name]["quality"]["perplexity"]), change(loss)]
                for name, loss in losses.items()
            ),
        ],
    )


def _candidates(candidates: Sequence[Mapping[str, Any]]) -> Iterator[Plot]:
    """Yield how fast the precisions run that were measured when one was chosen."""
    if not candidates:
        return
    kinds = {"one request": "tokens_per_second", "several at once": "tokens_per_second_many"}
    speeds = {_candidate(one): {kind: one[key] for kind, key in kinds.items()} for one in candidates}
    top = ceiling(max(value for row in speeds.values() for value in row.values()))
    yield Plot(
        title="Speed by precision",
        note="Tokens a second for one request and, together, for several, on the machine that chose the precision.",
        svg=Markup(  # noqa: S704 - as above
            dots(speeds, low=0, high=top, form=lambda value: f"{value:.0f}", label="Tokens a second", limit=None)
        ),
        legend=legend(list(kinds)),
        head=[
            "candidate",
            "tokens/s",
            "several at once",
            "prompt tokens/s",
            "growth of perplexity",
            "KL",
            "top-1",
            "size",
        ],
        rows=[
            [
                _candidate(one),
                f"{one['tokens_per_second']:.1f}",
                f"{one['tokens_per_second_many']:.1f}",
                f"{one['prefill_tokens_per_second']:.0f}",
                change(one["perplexity_loss"]),
                number(one["kl"]),
                percent(one["top1_agreement"]),
                size(one["bytes"]),
            ]
            for one in candidates
        ],
    )


def _candidate(row: Mapping[str, Any]) -> str:
    name = row["precision"]
    if name != "fp32":
        name = f"{name} {row['rounding']}, block {row['block_size']}"
        if row.get("sensitive"):
            name += f", sensitive {row['sensitive']:g} %"
    return f"{name} ✓" if row["chosen"] else name


def _full_name(part: Mapping[str, Any]) -> str:
    return f"context {part['name']}" if part["by"] == "position" else str(part["name"])


def number_long(value: float) -> str:
    """Return a perplexity: differences of a ten-thousandth count."""
    return f"{value:.5g}"


def _slices(found: Mapping[str, Any], by: str) -> list[Mapping[str, Any]]:
    return [part for part in found["slices"] if part["by"] == by]
