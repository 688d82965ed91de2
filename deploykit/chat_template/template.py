"""A model's chat template: messages in, the prompt's text out."""

import json
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from deploykit.chat_template.continuing import Continuation
from deploykit.chat_template.crew import Crew
from deploykit.chat_template.limits import Limits
from deploykit.chat_template.sources import DEFAULT, Sources, read_sources
from deploykit.errors import ArtifactError, QueueFullError, RequestError

_REASONING: Final = ("reasoning_content", "thinking", "reasoning")
"""Names under which a message's reasoning comes; templates read the first, some the second."""
_ARGUMENTS: Final = ("messages", "tools", "add_generation_prompt")
_FUNCTIONS: Final = (
    *("raise_exception", "strftime_now", "dict", "namespace"),
    *("range", "cycler", "joiner", "lipsum", "self", "caller", "varargs", "kwargs", "loop"),
)
_USUAL: Final = Limits()


class VariableError(RequestError):
    """A request sets a variable that only the model has a say in."""


class ChatTemplate:
    """A model's chat templates, run in processes of their own; for any number of threads.

    Example:
        ```python
        from pathlib import Path

        from deploykit.chat_template import ChatTemplate

        with ChatTemplate.open(Path("out")) as template:
            print(template.render([{"role": "user", "content": "Hello"}]))
        ```
    """

    def __init__(self, sources: Sources, limits: Limits = _USUAL) -> None:
        """Compile the templates.

        Raises:
            RequestError: one doesn't compile.
        """
        self._sources = sources
        self._limits = limits
        self._reserved = frozenset((*_ARGUMENTS, *_FUNCTIONS, *sources.specials))
        self._knows_developer = any("developer" in template for template in sources.templates.values())
        self._crew = Crew(sources.templates, limits)
        self._end = weakref.finalize(self, self._crew.close)

    @classmethod
    def open(cls, folder: Path, limits: Limits = _USUAL) -> Self | None:
        """Return the chat template of an artifact or a checkpoint, or None where it has none.

        Args:
            folder: where `tokenizer_config.json` lies, or the template in a file of its own.
            limits: how far it may go.

        Raises:
            ArtifactError: it can't be read, or doesn't compile.
        """
        sources = read_sources(folder)
        if sources is None:
            return None
        try:
            return cls(sources, limits)
        except QueueFullError:
            raise
        except RequestError as error:
            raise ArtifactError(f"{folder}: {error}; correct it in the checkpoint and export again") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """Return the prompt, equal to what transformers' `apply_chat_template` makes of the same.

        Args:
            messages: as `check_messages` returns them.
            tools: functions that the model may call, as `check_tools` returns them; none where empty.
            add_generation_prompt: whether the prompt ends where an answer of the assistant begins.
            continue_final_message: whether it ends within the last message, for the model to go on with; no generation
                prompt is added then.
            variables: others that the template looks at, such as `enable_thinking` or `documents`.

        Raises:
            RequestError: the template refuses these messages or fails on them, a limit was passed, or a variable is one
                of those that only the model has a say in.
            QueueFullError: too many renderings at once; a later try can succeed.
        """
        if not messages:
            raise RequestError("there are no messages; send at least one")
        self._check_variables(variables)
        conversation = [self._readied(message) for message in messages]
        continued = Continuation.of(conversation) if continue_final_message else None
        context = {
            "documents": None,
            **self._sources.specials,
            **variables,
            "messages": continued.messages if continued else conversation,
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt and not continued,
        }
        text = self._crew.ask(self._frame({"template": self._choose(context), "variables": context}))
        return continued.cut(text) if continued else text

    def close(self) -> None:
        """End the processes; a second call does nothing."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_variables(self, variables: Mapping[str, Any]) -> None:
        for name in variables:
            if name in self._reserved or name.startswith("_"):
                raise VariableError(f"the chat template's variable {name!r} can't be set by a request; leave it out")

    def _readied(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return a message with the names that templates know."""
        # Templates test whether a key is there, and would write out its None.
        kept = {name: value for name, value in message.items() if value is not None}
        reasoning = next((kept[name] for name in _REASONING if name in kept), None)
        if reasoning is not None:
            kept = {"thinking": reasoning, **kept, "reasoning_content": reasoning}
        if kept.get("role") == "developer" and not self._knows_developer:
            kept["role"] = "system"
        return kept

    def _choose(self, context: Mapping[str, Any]) -> str:
        """Return the name of the template for what is to be rendered."""
        templates = self._sources.templates
        if context["tools"] is not None and "tool_use" in templates:
            return "tool_use"
        if context["documents"] is not None and "rag" in templates:
            return "rag"
        if DEFAULT in templates:
            return DEFAULT
        raise RequestError(
            f"the model has chat templates for {', '.join(sorted(templates))} alone, and none for other messages; "
            f"name one of them {DEFAULT!r} in the checkpoint"
        )

    def _frame(self, request: Mapping[str, Any]) -> bytes:
        try:
            frame = json.dumps(request, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            # UnicodeEncodeError is a ValueError, and its text would hold the prompt.
            reason = "a lone surrogate in it" if isinstance(error, UnicodeEncodeError) else error
            raise RequestError(f"the messages are no valid JSON: {reason}; correct them") from None
        if len(frame) > self._limits.request:
            raise RequestError(
                f"messages, tools and variables have {len(frame)} bytes; at most {self._limits.request} are taken"
            )
        return frame
