"""What answers: an engine in this process, or a server."""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from deploykit.chat.conversation import as_text
from deploykit.errors import ArtifactError, RequestError

_ENDLESS: Final = 10**6
"""Tokens that stand for as many as the context has room for."""
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an answer as it comes."""

    text: str
    finish_reason: str | None = None
    """`stop` or `length` with the last one."""


class TooLongError(RequestError):
    """The conversation leaves too little room for an answer."""


class ChatModel(Protocol):
    """Who answers."""

    name: str
    about: str
    """What a user should know of it at the start, in a few words."""

    def answer(
        self, messages: list[dict[str, Any]], sampling: Mapping[str, Any], *, tight: bool = False
    ) -> Generator[Piece, None, None]:
        """Yield the answer as it comes; closing the generator ends it.

        Args:
            messages: the conversation.
            sampling: options by name.
            tight: whether to answer in whatever room is left, since nothing more can be left out.

        Raises:
            TooLongError: something should be left out first.
            DeploykitError: there is no answer, for any other reason.
        """

    def check(self, sampling: Mapping[str, Any]) -> None:
        """Pass options that it takes, as far as that can be known here.

        Raises:
            RequestError: they can't be.
        """

    def close(self) -> None:
        """Let go of it."""


def is_address(target: str) -> bool:
    """Return whether a target names a server, and no folder."""
    return "://" in target or (_ADDRESS.fullmatch(target) is not None and not Path(target).exists())


def open_local(artifact: Path, *, precision: Any = None, raw: bool = False) -> ChatModel:
    """Return the model of an artifact, run by an engine in this process.

    Args:
        artifact: its folder.
        precision: which of its graphs; the one it serves where None.
        raw: whether to continue the conversation as one text, without a chat template.

    Raises:
        ArtifactError: it can't be run, or has no chat template though one is needed.
    """
    return _Local(artifact, precision=precision, raw=raw)


def open_remote(url: str, *, raw: bool = False, **options: Any) -> ChatModel:
    """Return the model behind an address: Triton's gRPC endpoint or the gateway; `options` are the client's.

    Raises:
        ClientError: the address or an option can't be.
    """
    return _Remote(url, raw=raw, **options)


class _Local:
    """An engine for one conversation."""

    def __init__(self, artifact: Path, *, precision: Any, raw: bool) -> None:
        from deploykit.artifact import Artifact
        from deploykit.chat_template import ChatTemplate
        from deploykit.config import EngineConfig
        from deploykit.engine import Engine
        from deploykit.engine.text import Codec

        found = Artifact.open(artifact)
        if found.tokenizer is None:
            raise ArtifactError(f"{artifact}: this model has no tokenizer, so it can't chat")
        self._template = None if raw else ChatTemplate.open(artifact)
        if self._template is None and not raw:
            raise ArtifactError(
                f"{artifact}: this model has no chat template, so it was probably not made to chat; "
                "try --raw, which has it continue what you write, or `deploykit generate`"
            )
        self._codec = Codec.open(found.tokenizer)
        # Rows cost memory for keys and values, and there is one conversation.
        self._engine = Engine.open(artifact, EngineConfig(max_rows=1), precision=precision)
        self.name = artifact.resolve().name
        self.about = f"{precision or found.manifest.served}, context of {self._engine.context} tokens"

    def answer(
        self, messages: list[dict[str, Any]], sampling: Mapping[str, Any], *, tight: bool = False
    ) -> Generator[Piece, None, None]:
        from deploykit.engine import EngineError, SamplingParams

        tokens = self._tokens(messages)
        limit = sampling.get("max_tokens") or _ENDLESS
        context = self._engine.context
        if not tight and len(tokens) + min(limit, context // 4) > context:
            raise TooLongError(f"the conversation has {len(tokens)} of {context} tokens")
        params = SamplingParams.from_mapping({**sampling, "max_tokens": limit})
        with closing(self._engine.stream(tokens, params)) as events:
            for event in events:
                if event.error:
                    raise EngineError(event.error)
                yield Piece(text=event.text, finish_reason=event.finish_reason)

    def check(self, sampling: Mapping[str, Any]) -> None:
        from deploykit.engine import SamplingParams

        SamplingParams.from_mapping(sampling)

    def close(self) -> None:
        self._engine.close()
        if self._template:
            self._template.close()

    def _tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        if self._template is None:
            return self._codec.encode(as_text([dict(message) for message in messages]))
        # The template has written the special tokens that belong there.
        return self._codec.spell(self._template.render(messages))


class _Remote:
    """A server's model."""

    def __init__(self, url: str, *, raw: bool, **options: Any) -> None:
        from deploykit.client import Client

        self._client = Client(url, **options)
        self._raw = raw
        # The gateway gives an answer all the room there is, and Triton itself has a default that is short.
        self._limit = None if url.startswith("http") else _ENDLESS
        self.name = options.get("model") or url
        self.about = f"at {url}"

    def answer(
        self, messages: list[dict[str, Any]], sampling: Mapping[str, Any], *, tight: bool = False
    ) -> Generator[Piece, None, None]:
        from deploykit.client import InvalidRequestError

        # The gateway refuses a limit that the context has no room for; Triton's answer just ends there.
        limit = None if tight and self._limit is None else sampling.get("max_tokens")
        options: Any = {**sampling, "max_tokens": limit or self._limit}
        try:
            with self._stream(messages, options) as stream:
                for chunk in stream:
                    yield Piece(text=chunk.text, finish_reason=chunk.finish_reason)
        except InvalidRequestError as error:
            if "context" not in str(error) or tight:
                raise
            raise TooLongError(str(error)) from None

    def check(self, sampling: Mapping[str, Any]) -> None:
        """Pass everything: what a server takes it says itself."""

    def close(self) -> None:
        self._client.close()

    def _stream(self, messages: list[dict[str, Any]], options: Any) -> Any:
        if self._raw:
            return self._client.generate(as_text(messages), stream=True, **options)
        return self._client.chat(messages, stream=True, **options)
