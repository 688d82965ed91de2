"""`deploykit inspect`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from deploykit.cli import console, options
from deploykit.spec import shape_text

_FEW: Final = 6
"""Cache tensors that are alike are shown by the first of them."""


@click.command()
@click.argument("path", metavar="ARTIFACT", type=click.Path(path_type=Path))
@click.option("--no-verify", is_flag=True, help="Don't compare the files with their hashes.")
@options.as_json
def inspect(path: Path, no_verify: bool, as_json: bool) -> None:
    """Print what ARTIFACT is, how it came about, and how good it is; an ONNX file or folder will do as well."""
    from deploykit.inspect import inspect as run

    with console.spinner("reading"):
        found = run(path, verify=not no_verify)
    if as_json:
        console.print_json(found)
        return
    if found["kind"] == "artifact":
        _artifact(found)
    else:
        _title(found["path"])
        _rows(_texts(found))
    for graph in found["graphs"]:
        _graph(graph, ends=found["kind"] != "artifact")


def _artifact(found: Mapping[str, Any]) -> None:
    _title(found["path"])
    heads = _slash(found["key_value_heads"])
    queries = f"{found['heads']} heads, " if found["heads"] else ""
    _rows(
        [
            ("model", f"{found['architecture']} ({found['model_type']}), {found['task']}"),
            ("size", f"{found['layers']} layers, {queries}{heads} key/value heads of {_slash(found['head_size'])}"),
            ("vocabulary", f"{found['vocabulary']:,} entries"),
            ("context", f"{found['context']:,} tokens, {found['cache_bytes_per_token']:,} bytes of cache each"),
            *([("source", f"{found['source']:,} tokens, as many bytes each")] if found["source"] else []),
            *_texts(found),
            *[(p["precision"], _precision(p)) for p in found["precisions"]],
        ]
    )
    _section("tensors", found, _tensors)
    _section("history", found, _history)
    if found["quality"]:
        _section("quality", found, _quality)
    if found["triton"]:
        _section("triton", found, _triton)
    _section("files", found, _files)


def _slash(values: Sequence[int]) -> str:
    return "/".join(map(str, values))


def _texts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of card, licence and tokenizer; those that are not there are left out."""
    card, tokenizer = found["card"], found["tokenizer"]
    rows = [
        ("card", card["card"]),
        ("base model", card["base_model"]),
        ("licence", card["licence"] and f"{card['licence']}{_in(card['licence_file'])}"),
    ]
    if tokenizer:
        specials = ", ".join(f"{name} {text!r}" for name, text in tokenizer["special_tokens"].items())
        rows.append(("tokenizer", f"{_bytes(tokenizer['bytes'])}; {specials or 'no special tokens'}"))
        rows.append(("chat", _chat(tokenizer)))
    return [(name, text) for name, text in rows if text]


def _chat(tokenizer: Mapping[str, Any]) -> str:
    """Return the chat templates, each with its file; the names are the checkpoint's words."""
    if tokenizer["chat_template_problem"]:
        return click.style(console.printable(tokenizer["chat_template_problem"]), fg="red")
    templates = [f"{name}{_in(file)}" for name, file in tokenizer["chat_templates"].items()]
    return console.printable(f"template {', '.join(templates)}") if templates else "no chat template"


def _in(file: str | None) -> str:
    return f" ({file})" if file else ""


def _precision(precision: Mapping[str, Any]) -> str:
    served = click.style("  served", fg="green") if precision["served"] else ""
    files = " and ".join(precision[name] for name in ("file", "encoder") if name in precision)
    return f"{_bytes(precision['bytes'])}  {files}{served}"


def _tensors(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [*_ends("in", found["inputs"]), *_ends("out", found["outputs"])]


def _ends(role: str, values: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return a row for each tensor; of many that follow each other, the first few."""
    shown = values if len(values) <= 2 * _FEW else values[:_FEW]
    rows = [
        (role, f"{v['name']}  {v['type']} {shape_text(v['shape']) if v['shape'] is not None else ''}") for v in shown
    ]
    left = len(values) - len(shown)
    return [*rows, *([("", click.style(f"and {left} more, up to {values[-1]['name']}", dim=True))] if left else [])]


def _history(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for record in found["history"]:
        given = ", ".join(
            f"{name}={value}" for name, value in record["options"].items() if value not in (None, False, ())
        )
        seconds = record["result"].get("seconds")
        rows.append((record["stage"], f"{given or 'defaults'}{'' if seconds is None else f', {seconds:g} s'}"))
        rows += [("", click.style(text, dim=True)) for text in _details(record)]
    return rows


def _details(record: Mapping[str, Any]) -> list[str]:
    """Return a stage's passes, other figures and versions, a line each."""
    result, lines = dict(record["result"]), []
    passes = result.pop("passes", ())
    result.pop("seconds", None)
    lines += [
        f"pass {p['name']}: {p['nodes_before']} to {p['nodes_after']} nodes, {p['seconds']:g} s"
        for p in passes
        if isinstance(p, Mapping) and p.get("changed")
    ]
    plain = {name: value for name, value in result.items() if isinstance(value, int | float | str) and value != ""}
    if plain:
        lines.append(
            ", ".join(f"{name} {value:,}" if _number(value) else f"{name} {value}" for name, value in plain.items())
        )
    if record["versions"]:
        lines.append("with " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()))
    return lines


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _quality(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    colours = {"passed": "green", "failed": "red", "not judged": "yellow"}
    rows = []
    for entry in found["quality"]:
        figures = ", ".join(_figure(figure) for figure in entry["figures"])
        on = f"in {entry['cases']} cases against {entry['reference']}" if "cases" in entry else f"on {entry['text']}"
        rows.append(
            (entry["precision"], f"{click.style(entry['verdict'], fg=colours[entry['verdict']])}: {figures} {on}")
        )
    return rows


def _figure(figure: Mapping[str, Any]) -> str:
    limit = "" if figure["limit"] is None else f" (limit {figure['limit']:.3g})"
    text = f"{figure['name'].replace('_', ' ')} {figure['value']:.4g}{limit}"
    return click.style(text, fg="red", bold=True) if figure["past"] else text


def _triton(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for model in found["triton"]:
        if "problem" in model:
            rows.append((model["name"], click.style(model["problem"], fg="red")))
            continue
        rows.append((model["name"], f"backend {model['backend']}, versions {', '.join(model['versions'])}"))
        rows.append(("", f"in {', '.join(model['inputs'])}"))
        rows.append(("", f"out {', '.join(model['outputs'])}"))
        settings = ", ".join(f"{name} {value}" for name, value in model["parameters"].items())
        rows += [("", settings)] if settings else []
    return rows


def _files(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    files = found["files"]
    colour = {"verified": "green", "damaged": "red"}.get(files["state"], "yellow")
    rows = [("", click.style(files["problem"] or files["state"], fg=colour))]
    return [*rows, *[(entry["sha256"][:12], f"{entry['bytes']:>12,}  {entry['name']}") for entry in files["entries"]]]


def _graph(graph: Mapping[str, Any], *, ends: bool) -> None:
    weights = graph["weights"]
    opsets = ", ".join(f"{domain} {version}" for domain, version in graph["opsets"].items())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in weights["by_type"].items())
    rows = [
        (
            "versions",
            f"IR {graph['ir_version']}, opset {opsets}{', by ' + graph['producer'] if graph['producer'] else ''}",
        ),
        *(
            [*_ends("in", graph["inputs"]), *_ends("optional", graph["defaults"]), *_ends("out", graph["outputs"])]
            if ends
            else []
        ),
        ("nodes", f"{graph['nodes']:,}: " + ", ".join(f"{name} {count}" for name, count in graph["operators"].items())),
        ("weights", f"{weights['count']:,}, {weights['quantized']:.1%} of them quantized: {kinds or 'none'}"),
        *[("stored in", _stored(entry)) for entry in weights["external"]],
    ]
    if weights["inside"]:
        rows.append(("inside", _bytes(weights["inside"])))
    click.echo()
    _title(graph["file"])
    _rows(rows)


def _stored(entry: Mapping[str, Any]) -> str:
    if entry["bytes"] is None:
        return click.style(f"{entry['file']}, which is not there", fg="red")
    return f"{entry['file']}, {_bytes(entry['bytes'])}, {entry['tensors']} tensors"


def _section(title: str, found: Mapping[str, Any], rows: Callable[[Mapping[str, Any]], list[tuple[str, str]]]) -> None:
    click.echo()
    _title(title)
    _rows(rows(found))


def _bytes(size: int) -> str:
    return console.megabytes(size) if size >= 1e5 else f"{size:,} bytes"


def _title(text: str) -> None:
    click.secho(text, bold=True)


def _rows(rows: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        click.echo(f"  {name:<{width}}  {text}")
