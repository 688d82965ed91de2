"""Chat templates in the formats of many families, written for these tests."""

from pathlib import Path
from typing import Final

TEMPLATES: Final = Path(__file__).parent / "chat_template" / "templates"
NAMED: Final = {"command": {"default": "command", "tool_use": "command_tool_use", "rag": "granite"}}
"""Families with several templates, and the file of each."""
FAMILIES: Final = sorted({file.stem for file in TEMPLATES.glob("*.jinja")} - {"command_tool_use"})


def template_of(family: str) -> str | dict[str, str]:
    """Return what a tokenizer of the family has as its `chat_template`."""
    if family in NAMED:
        return {name: _text(file) for name, file in NAMED[family].items()}
    return _text(family)


def _text(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text()
