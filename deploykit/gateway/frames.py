"""The events of a stream as bytes: what never changes is written once, so that a token costs one small `json.dumps`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from deploykit.client import Chunk
from deploykit.gateway.logprobs import chat_logprobs, completion_logprobs, length_of
from deploykit.gateway.vocabulary import Vocabulary

DONE: Final = b"data: [DONE]\n\n"

_compact: Final = json.JSONEncoder(separators=(",", ":")).encode
# ASCII alone: some readers of events take U+2028 and the like for an end of line.


@dataclass(frozen=True, kw_only=True)
class Head:
    """What every response to a request begins with."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }


class Frames(Protocol):
    """Writes a stream's events."""

    def opening(self) -> bytes:
        """Return what comes before the first token."""

    def of(self, index: int, chunk: Chunk) -> bytes:
        """Return the events of a piece of a choice; nothing where it adds nothing."""

    def usage(self, usage: Mapping[str, int]) -> bytes:
        """Return the event that says what the whole took."""


class _Envelope:
    """The JSON around a choice."""

    def __init__(self, head: Head, *, usage: bool) -> None:
        start = _compact(head.to_json())[:-1]
        self._choice = f'data: {start},"choices":[{{"index":'
        self._none = f'data: {start},"choices":[],"usage":'
        self._end = '}],"usage":null}\n\n' if usage else "}]}\n\n"

    def choice(self, index: int, inside: str) -> bytes:
        return f"{self._choice}{index},{inside}{self._end}".encode("ascii")

    def usage(self, usage: Mapping[str, int]) -> bytes:
        return f"{self._none}{_compact(usage)}}}\n\n".encode("ascii")


class ChatFrames:
    """Chunks of a chat completion: a role first, then pieces of content, then a reason."""

    def __init__(self, head: Head, *, choices: int, usage: bool, vocabulary: Vocabulary) -> None:
        self._envelope = _Envelope(head, usage=usage)
        self._choices = choices
        self._vocabulary = vocabulary

    def opening(self) -> bytes:
        """Return the role of every choice."""
        inside = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        return b"".join(self._envelope.choice(index, inside) for index in range(self._choices))

    def of(self, index: int, chunk: Chunk) -> bytes:
        """Return the events of a piece."""
        frames = b""
        if chunk.text or chunk.logprobs:
            said = "null"
            if chunk.logprobs:
                said = _compact(chat_logprobs(chunk.logprobs, self._vocabulary))
            text = _compact(chunk.text)
            frames = self._envelope.choice(
                index, f'"delta":{{"content":{text}}},"logprobs":{said},"finish_reason":null'
            )
        if chunk.finish_reason:
            frames += self._envelope.choice(
                index, f'"delta":{{}},"logprobs":null,"finish_reason":"{chunk.finish_reason}"'
            )
        return frames

    def usage(self, usage: Mapping[str, int]) -> bytes:
        """Return the event that says what the whole took."""
        return self._envelope.usage(usage)


class CompletionFrames:
    """Chunks of a text completion, each with its text, and the last of a choice with its reason."""

    def __init__(self, head: Head, *, prefixes: Sequence[str], usage: bool, vocabulary: Vocabulary) -> None:
        """Prepare them; `prefixes` are what each choice's text begins with, empty but where `echo` is asked for."""
        self._envelope = _Envelope(head, usage=usage)
        self._prefixes = list(prefixes)
        self._offsets = [len(prefix) for prefix in prefixes]
        self._vocabulary = vocabulary

    def opening(self) -> bytes:
        """Return nothing: a completion has no role to tell."""
        return b""

    def of(self, index: int, chunk: Chunk) -> bytes:
        """Return the event of a piece."""
        text, self._prefixes[index] = self._prefixes[index] + chunk.text, ""
        if not (text or chunk.logprobs or chunk.finish_reason):
            return b""
        said = "null"
        if chunk.logprobs:
            said = _compact(completion_logprobs(chunk.logprobs, self._vocabulary, offset=self._offsets[index]))
            self._offsets[index] += length_of(chunk.logprobs)
        reason = f'"{chunk.finish_reason}"' if chunk.finish_reason else "null"
        return self._envelope.choice(index, f'"text":{_compact(text)},"logprobs":{said},"finish_reason":{reason}')

    def usage(self, usage: Mapping[str, int]) -> bytes:
        """Return the event that says what the whole took."""
        return self._envelope.usage(usage)


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return what a request took, as OpenAI counts it."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
