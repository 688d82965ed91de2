"""The small files beside a graph: model card, licence, tokenizer."""

import json
import re
from pathlib import Path
from typing import Any, Final

from deploykit.chat_template.sources import read_sources
from deploykit.errors import ArtifactError

_FRONT: Final = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
_LARGEST: Final = 1 << 20
"""Bytes of a text that are read: a card's front matter is at its top."""
_SPECIALS: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def describe_card(folder: Path) -> dict[str, Any]:
    """Return what is known of a model's card and licence."""
    card = next((file for file in (folder / "README.md", folder / "MODEL_CARD.md") if file.is_file()), None)
    front = _front_matter(_read(card)) if card else {}
    licences = sorted(file for file in folder.glob("LICEN[SC]E*") if file.is_file())
    return {
        "card": card.name if card else None,
        "licence": front.get("license") or (_first_line(licences[0]) if licences else None),
        "licence_file": licences[0].name if licences else None,
        "base_model": front.get("base_model"),
        "notices": sorted(file.name for file in folder.glob("NOTICE*") if file.is_file()),
    }


def _front_matter(text: str) -> dict[str, str]:
    """Return the simple fields of a card's YAML head; of a list, the first entry."""
    match = _FRONT.match(text)
    fields: dict[str, str] = {}
    key = ""
    for line in match[1].splitlines() if match else ():
        pair = re.match(r"([A-Za-z_]+):\s*(.*)", line)
        entry = re.match(r"\s*-\s+(.+)", line)
        if pair:
            key = pair[1]
            fields[key] = pair[2].strip().strip("\"'[]")
        elif entry and key and not fields[key]:
            fields[key] = entry[1].strip().strip("\"'")
    return {name: value for name, value in fields.items() if value}


def _first_line(file: Path) -> str | None:
    return next((line.strip()[:120] for line in _read(file).splitlines() if line.strip()), None)


def describe_tokenizer(folder: Path) -> dict[str, Any] | None:
    """Return a tokenizer's size, special tokens and chat templates; None where there is none."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    settings = read_object(folder / "tokenizer_config.json")
    mapped = {**settings, **read_object(folder / "special_tokens_map.json")}
    return {
        "file": file.name,
        "bytes": file.stat().st_size,
        "special_tokens": {name: _token(mapped[name]) for name in _SPECIALS if mapped.get(name)},
        **_chat_templates(folder),
    }


def _chat_templates(folder: Path) -> dict[str, Any]:
    """Return whether there are chat templates, and the file of each by its name."""
    try:
        sources = read_sources(folder)
    except ArtifactError as error:
        return {"chat_template": False, "chat_templates": {}, "chat_template_problem": str(error)}
    files = dict(sources.files) if sources else {}
    return {"chat_template": bool(files), "chat_templates": files, "chat_template_problem": None}


def _token(value: Any) -> str:
    return str(value.get("content") if isinstance(value, dict) else value)


def read_object(file: Path) -> dict[str, Any]:
    """Return a JSON object from a file; an empty one where there is none or it can't be read."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _read(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_LARGEST).decode("utf-8", errors="replace")
