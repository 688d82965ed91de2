"""Whether a checkpoint's chat templates work at all: each is compiled and renders a small conversation."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploykit.chat_template.limits import Limits
from deploykit.chat_template.sources import DEFAULT, Sources, read_sources
from deploykit.chat_template.template import ChatTemplate
from deploykit.chat_template.worker import TemplateRefusalError
from deploykit.errors import QueueFullError, RequestError

_CONVERSATION: Final = (
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I help?"},
    {"role": "user", "content": "What is two and two?"},
)
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}
_DOCUMENT: Final = {"title": "Sums", "text": "Two and two are four.", "contents": "Two and two are four."}
_NEEDS: Final[dict[str, dict[str, Any]]] = {"tool_use": {"tools": [_TOOL]}, "rag": {"documents": [_DOCUMENT]}}
"""What a template of such a name can rely on to be there."""
_USUAL: Final = Limits()


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with one of the templates."""

    file: str
    """Where it is kept, relative to the checkpoint."""
    reason: str
    compiles: bool
    """Whether it failed only on the conversation: on others it may do."""


def find_faults(folder: Path, limits: Limits = _USUAL) -> Iterator[Fault]:
    """Yield what is wrong with the chat templates in a folder; a template may refuse the conversation by itself.

    Args:
        folder: a checkpoint or an artifact.
        limits: how far a template may go.

    Raises:
        ArtifactError: they can't be read.
        EngineError: no template can be rendered on this machine.
        MissingExtraError: jinja2 isn't installed.
        QueueFullError: no process can be started for it now.
    """
    sources = read_sources(folder)
    for name, text in (sources.templates if sources else {}).items():
        assert sources is not None
        # Alone, so that a failure to compile is this one's.
        alone = Sources(templates={DEFAULT: text}, specials=sources.specials, files={DEFAULT: sources.files[name]})
        fault = _fault(alone, _NEEDS.get(name, {}), limits)
        if fault:
            yield fault


def _fault(sources: Sources, needs: dict[str, Any], limits: Limits) -> Fault | None:
    file, compiles = sources.files[DEFAULT], False
    try:
        with ChatTemplate(sources, limits) as template:
            compiles = True
            template.render(_CONVERSATION, **needs)
    except QueueFullError:
        raise
    except TemplateRefusalError:
        return None
    except RequestError as error:
        return Fault(file=file, reason=str(error), compiles=compiles)
    return None
