"""Where a checkpoint keeps its chat templates and the names of its special tokens: files in four generations of habits.

chat_template.jinja                    today's, with others beside it in additional_chat_templates/NAME.jinja
tokenizer_config.json "chat_template"  a text, or a list of {"name", "template"}
chat_template.json "chat_template"     of processors, where nothing else is there
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deploykit.errors import ArtifactError

TEMPLATE_FILE: Final = "chat_template.jinja"
TEMPLATE_FOLDER: Final = "additional_chat_templates"
OLD_TEMPLATE_FILE: Final = "chat_template.json"
_CONFIG: Final = "tokenizer_config.json"
_SPECIALS: Final = "special_tokens_map.json"
_LARGEST: Final = 64 * 2**20
"""Bytes of a file that is read; tokenizers with very many added tokens come to a few million."""
DEFAULT: Final = "default"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """A model's chat templates, not compiled."""

    templates: Mapping[str, str]
    """By name: `default`, `tool_use`, `rag`, or what the checkpoint calls them."""
    specials: Mapping[str, str]
    """Special tokens by the names that templates know them by, such as `bos_token`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """By the template's name: the file that holds it, relative to the folder."""


def read_sources(folder: Path) -> Sources | None:
    """Return the chat templates in a checkpoint's or an artifact's folder, or None where there are none.

    Raises:
        ArtifactError: a file can't be read, or isn't what its name says.
    """
    config = _read_object(folder / _CONFIG)
    found = _template_files(folder)
    templates = {name: _read_text(file) for name, file in found.items()}
    if not templates:
        templates = _named(config.get("chat_template"), folder / _CONFIG)
        found = dict.fromkeys(templates, folder / _CONFIG)
    if not templates:
        file = folder / OLD_TEMPLATE_FILE
        templates = _named(_read_object(file).get("chat_template"), file)
        found = dict.fromkeys(templates, file)
    if not templates:
        return None
    files = {name: file.relative_to(folder).as_posix() for name, file in found.items()}
    return Sources(templates=templates, specials=_specials(config, folder), files=files)


def _template_files(folder: Path) -> dict[str, Path]:
    """Return the files of which each is a template, by the templates' names."""
    files = {file.stem: file for file in sorted(folder.joinpath(TEMPLATE_FOLDER).glob("*.jinja"))}
    if (folder / TEMPLATE_FILE).exists():
        files.setdefault(DEFAULT, folder / TEMPLATE_FILE)
    return files


def _named(found: object, file: Path) -> dict[str, str]:
    """Return the templates of a `chat_template` field by name."""
    if found is None:
        return {}
    if isinstance(found, str):
        return {DEFAULT: found}
    entries = found if isinstance(found, list) else [found]
    named: dict[str, str] = {}
    for entry in entries:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            raise ArtifactError(
                f'{file}: "chat_template" is neither a text nor a list of {{"name", "template"}}; '
                "correct it in the checkpoint and export again"
            )
        named[name] = template
    return named


def _specials(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the special tokens that transformers would hand to a template."""
    fields = dict(config)
    if "added_tokens_decoder" not in config:
        # Only with configurations from before that field does the older file count, and then more.
        fields |= _read_object(folder / _SPECIALS)
    own = fields.pop("extra_special_tokens", None)
    named = {name: value for name, value in fields.items() if name.endswith("_token")}
    if isinstance(own, dict):
        named |= own
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _read_object(file: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing where there is no such file."""
    if not file.exists():
        return {}
    try:
        found = json.loads(_read_text(file))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{file}: can't be read as JSON: {error}; export the checkpoint again") from None
    if not isinstance(found, dict):
        raise ArtifactError(f"{file}: holds no JSON object; export the checkpoint again")
    return found


def _read_text(file: Path) -> str:
    try:
        if not file.is_file():
            raise ArtifactError(f"{file}: not a regular file; export the checkpoint again")
        if (size := file.stat().st_size) > _LARGEST:
            raise ArtifactError(f"{file}: {size} bytes, of at most {_LARGEST}; export the checkpoint again")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{file}: can't be read as UTF-8: {reason}; export the checkpoint again") from None
