"""The model card: the source's own, with what was changed since said at its head.

Apache-2.0 (section 4b) and many model licences ask for a prominent notice of changes; this is it, written from the
manifest whenever an artifact is committed. The source's text and metadata are kept as they are; licences are files of
their own, copied byte for byte.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from deploykit.artifact import Manifest, StageRecord

CARD: Final = "README.md"
_BEGIN: Final = "<!-- deploykit: changes, written anew by each stage -->"
_END: Final = "<!-- deploykit: end of changes -->"
_SECTION: Final = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}\n*", re.DOTALL)
_FRONT: Final = re.compile(r"\A---\r?\n(.*?)^---\r?\n", re.DOTALL | re.MULTILINE)
_TAG: Final = "onnx"


def new_card(source: str | None, *, name: str, hub_id: str | None, licence: str | None) -> str:
    """Return the card that a converted checkpoint begins with, its changes still empty.

    Args:
        source: the checkpoint's own card, if it has one.
        name: what a card without a title is called.
        hub_id: the checkpoint's name on the Hugging Face hub, if it came from there.
        licence: name of the licence file that travels along, if one does.
    """
    text = source if source is not None else f"# {name}\n\nThe checkpoint came without a model card.\n"
    front = _FRONT.match(text)
    fields = front.group(1) if front else ""
    body = _SECTION.sub("", text[front.end() :] if front else text).lstrip("\r\n")
    if hub_id and not re.search(r"^base_model\s*:", fields, re.MULTILINE):
        fields += f"base_model: {hub_id}\n"
    if licence and not re.search(r"^license\s*:", fields, re.MULTILINE):
        fields += f"license: other\nlicense_link: {licence}\n"
    return f"---\n{_tagged(fields)}---\n{_BEGIN}\n{_END}\n\n{body}"


def has_changes(text: str) -> bool:
    """Whether a card has the section that `with_changes` writes."""
    return _SECTION.search(text) is not None


def with_changes(text: str, manifest: "Manifest") -> str:
    """Return the card with what happened to the model, stage by stage, as the manifest says."""
    lines = "\n".join(f"- {line}" for record in manifest.history for line in _STAGES[record.stage](record, manifest))
    section = (
        f"{_BEGIN}\n## Changes made by deploykit\n\n"
        f"These are not the original files of this {manifest.architecture}. Since the checkpoint:\n\n"
        f"{lines}\n\nServed in {manifest.served}. The licence is the source's; `manifest.json` holds all options, "
        f"versions and hashes.\n{_END}\n\n"
    )
    changed = _SECTION.sub(lambda _: section, text, count=1)
    if any(record.stage == "quantize" for record in manifest.history):
        return _with_relation(changed)
    return changed


def _tagged(fields: str) -> str:
    """Return YAML fields with the tag `onnx` among their tags, all else as it was."""
    if re.search(rf"^\s*-\s*{_TAG}\s*$|^tags\s*:\s*\[.*\b{_TAG}\b", fields, re.MULTILINE):
        return fields
    inline = re.search(r"^tags\s*:\s*\[", fields, re.MULTILINE)
    if inline:
        rest = fields[inline.end() :]
        return f"{fields[: inline.end()]}{_TAG}{'' if rest.lstrip().startswith(']') else ', '}{rest}"
    block = re.search(r"^tags\s*:[ \t]*\r?\n(?=([ \t]*)- )", fields, re.MULTILINE)
    if block:
        return f"{fields[: block.end()]}{block.group(1)}- {_TAG}\n{fields[block.end() :]}"
    if re.search(r"^tags\s*:", fields, re.MULTILINE):  # one tag without a list, or none
        return re.sub(r"^tags\s*:[ \t]*(\S*).*$", lambda m: _tag_list(m.group(1)), fields, count=1, flags=re.MULTILINE)
    return f"{fields}tags:\n- {_TAG}\n"


def _tag_list(tag: str) -> str:
    return "\n".join(["tags:", f"- {_TAG}", *([f"- {tag}"] if tag not in ("", "null", "~") else [])])


def _with_relation(text: str) -> str:
    """Return the card with `base_model_relation: quantized`, where it names a base and no relation."""
    front = _FRONT.match(text)
    fields = front.group(1) if front else ""
    if not front or "base_model_relation" in fields or not re.search(r"^base_model\s*:", fields, re.MULTILINE):
        return text
    return f"---\n{fields}base_model_relation: quantized\n---\n{text[front.end() :]}"


def _convert(record: "StageRecord", _: "Manifest") -> Iterator[str]:
    how = {"fused": "written as a fused graph", "traced": "traced from PyTorch"}.get(str(record.result.get("method")))
    torch = record.versions.get("transformers", "?")
    yield (
        f"**Converted to ONNX**: {how or 'converted'}, opset {record.options.get('opset')}, weights in fp32, values "
        f"unchanged (transformers {torch})."
    )


def _optimize(record: "StageRecord", _: "Manifest") -> Iterator[str]:
    before, after = record.result.get("nodes_before"), record.result.get("nodes_after")
    if record.result.get("changed", True):
        yield f"**Simplified**: {before} nodes became {after}; what they compute is the same."


def _quantize(record: "StageRecord", _: "Manifest") -> Iterator[str]:
    options = {
        name: value for name, value in record.options.items() if name != "precision" and value not in (None, (), [])
    }
    said = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in options.items())
    yield f"**Weights changed**: rounded to {record.options.get('precision')}{said and f' ({said})'}."


def _validate(_: "StageRecord", manifest: "Manifest") -> Iterator[str]:
    for precision, found in manifest.parity.items():
        if cases := found.get("cases"):
            worst = max(case["max_abs_error"] for case in cases.values())
            yield f"**Checked** in {precision}: no logit differs from {found['reference']}'s by more than {worst:.2g}."
        elif "perplexity_loss" in found:
            yield (
                f"**Checked** in {precision}: perplexity {100 * found['perplexity_loss']:+.2f} %, the same first "
                f"choice at {100 * found['top1_agreement']:.1f} % of positions."
            )


def _package(record: "StageRecord", _: "Manifest") -> Iterator[str]:
    yield f"**Packaged** for Triton as `{record.options.get('name')}`."


class _Stages(dict[str, Callable[["StageRecord", "Manifest"], Iterator[str]]]):
    """What to say of each stage; of one that is unknown here, its name."""

    def __missing__(self, stage: str) -> Callable[["StageRecord", "Manifest"], Iterator[str]]:
        return lambda record, _: iter([f"**{record.stage}**, see `manifest.json`."])


_STAGES: Final[Mapping[str, Callable[["StageRecord", "Manifest"], Iterator[str]]]] = _Stages(
    convert=_convert, optimize=_optimize, quantize=_quantize, validate=_validate, package=_package
)


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
