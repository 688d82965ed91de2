"""What answers: an engine in this process, or a server."""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from deploykit.chat.conversation import as_text
from deploykit.errors import ArtifactError, ConfigError, RequestError

_ENDLESS: Final = 10**6
"""Tokens that stand for as many as the context has room for."""
_GATEWAY_TOKENS: Final = 1024
"""Of an answer over HTTP, where nothing else is said."""
_TOO_LONG: Final = (
    re.compile(
        r"maximum context length is (?P<context>\d+) tokens, but the request has (?:at least )?(?P<prompt>\d+) in"
    ),
    re.compile(r"the prompt has (?:at least )?(?P<prompt>\d+) tokens, but the context of (?P<context>\d+)"),
)
"""How the gateway and the engine refuse what the context has no room for."""
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an answer as it comes."""

    text: str
    tokens: int = 0
    """Of the answer so far."""
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
                yield Piece(text=event.text, tokens=event.num_output_tokens, finish_reason=event.finish_reason)

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
        # Triton's answers end where the context is full; the gateway refuses a limit that there is no room for.
        self._limit = _GATEWAY_TOKENS if url.startswith("http") else _ENDLESS
        try:
            self.name = options.get("model") or _only(self._client.models(), url)
        except BaseException:
            self.close()
            raise
        self.about = f"at {url}"

    def answer(
        self, messages: list[dict[str, Any]], sampling: Mapping[str, Any], *, tight: bool = False
    ) -> Generator[Piece, None, None]:
        from deploykit.client import InvalidRequestError

        limit = sampling.get("max_tokens") or self._limit
        try:
            yield from self._listen(messages, {**sampling, "max_tokens": limit})
        except InvalidRequestError as error:
            room = _room(str(error))
            if not room.left or not (tight or room.left >= min(limit, room.context // 4)):
                raise (TooLongError(str(error)) if room.context and not tight else error) from None
            yield from self._listen(messages, {**sampling, "max_tokens": min(limit, room.left)})

    def check(self, sampling: Mapping[str, Any]) -> None:
        """Pass everything: what a server takes it says itself."""

    def close(self) -> None:
        self._client.close()

    def _listen(self, messages: list[dict[str, Any]], options: Any) -> Generator[Piece, None, None]:
        if self._raw:
            stream = self._client.generate(as_text(messages), stream=True, **options)
        else:
            stream = self._client.chat(messages, stream=True, **options)
        with stream:
            for chunk in stream:
                yield Piece(text=chunk.text, tokens=chunk.num_output_tokens, finish_reason=chunk.finish_reason)


def _only(models: Sequence[Any], url: str) -> str:
    """Return the name of the one model that a server has ready."""
    names = [model.name for model in models if model.ready]
    if len(names) != 1:
        raise ConfigError(
            f"{url}: serves {', '.join(names)}; choose one: --model NAME"
            if names
            else f"{url}: no model is ready there"
        )
    return str(names[0])


@dataclass(frozen=True, kw_only=True)
class _Room:
    """What a server's refusal says of its context."""

    context: int
    """In tokens; 0 where the refusal is about something else."""
    left: int
    """Behind the prompt."""


def _room(refusal: str) -> _Room:
    for pattern in _TOO_LONG:
        if found := pattern.search(refusal):
            context, prompt = int(found["context"]), int(found["prompt"])
            return _Room(context=context, left=max(0, context - prompt))
    return _Room(context=0, left=0)
