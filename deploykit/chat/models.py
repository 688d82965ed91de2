"""What answers: an engine in this process, or a server."""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from deploykit.artifact import REPOSITORY
from deploykit.chat.conversation import as_text
from deploykit.errors import ArtifactError, ConfigError, RequestError

_ENDLESS: Final = 10**6
"""Tokens that stand for as many as the context has room for."""
_GATEWAY_TOKENS: Final = 1024
"""Of an answer over HTTP, where nothing else is said."""
_TOO_LONG: Final = (
    re.compile(
        r"maximum context length is (?P<context>\d+) tokens, "
        r"but the request has (?P<least>at least )?(?P<prompt>\d+) in"
    ),
    re.compile(r"the prompt has (?P<least>at least )?(?P<prompt>\d+) tokens, but the context of (?P<context>\d+)"),
)
"""How the gateway and the engine refuse what the context has no room for."""
_NO_TEMPLATE: Final = re.compile(r"no chat template|chat template can't be")
"""How they refuse messages where there is nothing that makes a prompt of them."""
_RAW: Final = "try --raw, which has it continue what you write"
_FACTS_SECONDS: Final = 10.0
"""In which an engine says what it is, without a row or a place in the queue."""
_MOST: Final = 2**31 - 1
"""Tokens for which no context has room."""
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an answer as it comes."""

    text: str
    tokens: int = 0
    """Of the answer so far."""
    finish_reason: str | None = None
    """`stop` or `length` with the last one."""
    full: bool = False
    """With `length`: whether it was the context that ended it, and not a limit of tokens."""


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
                f"{artifact}: this model has no chat template, so it was probably not made to chat; {_RAW}, "
                "or `deploykit generate`"
            )
        self._codec = Codec.open(found.tokenizer)
        # Rows cost memory for keys and values, and there is one conversation.
        self._engine = Engine.open(artifact, EngineConfig(max_rows=1), precision=precision)
        self.name = _name(artifact.resolve())
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
                yield Piece(
                    text=event.text,
                    tokens=event.num_output_tokens,
                    finish_reason=event.finish_reason,
                    full=event.num_output_tokens < limit,
                )

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
        self._http = url.startswith("http")
        # Triton's answers end where the context is full; the gateway refuses a limit that there is no room for.
        self._limit = _GATEWAY_TOKENS if self._http else _ENDLESS
        self._context = 0
        """The engine's, in tokens; 0 until it is known."""
        try:
            self.name = options.get("model") or _only(self._client.models(), url)
            if not self._http:
                self._context = self._told_context()
            if not raw:
                self._try(url)
        except BaseException:
            self.close()
            raise
        self.about = f"at {url}" + (f", context of {self._context} tokens" if self._context else "")

    def answer(
        self, messages: list[dict[str, Any]], sampling: Mapping[str, Any], *, tight: bool = False
    ) -> Generator[Piece, None, None]:
        from deploykit.client import InvalidRequestError

        limit = sampling.get("max_tokens") or self._limit
        try:
            yield from self._listen(messages, {**sampling, "max_tokens": limit}, limit, tight=tight)
        except InvalidRequestError as error:
            room = _room(str(error))
            if not room.context:
                raise
            self._context = room.context
            if not room.left or not (tight or room.left >= min(limit, room.context // 4)):
                raise (RequestError if tight else TooLongError)(room.told) from None
            options = {**sampling, "max_tokens": min(limit, room.left)}
            yield from self._listen(messages, options, limit, tight=tight)

    def check(self, sampling: Mapping[str, Any]) -> None:
        """Pass everything: what a server takes it says itself."""

    def close(self) -> None:
        self._client.close()

    def _told_context(self) -> int:
        """Return the context that Triton's engine says it has; 0 where it is another backend's, or too busy."""
        from deploykit.client import ClientError
        from deploykit.client.facts import engine_facts_for_threads

        try:
            context = engine_facts_for_threads(self._client, self.name, timeout=_FACTS_SECONDS).get("context")
        except ClientError:
            return 0
        return context if isinstance(context, int) else 0

    def _try(self, url: str) -> None:
        """Pass a model that chats, and learn what its refusal tells of the context.

        Over HTTP it is asked for more than any context holds, which is refused before anything runs; over gRPC for a
        token.
        """
        from deploykit.client import ClientError, InvalidRequestError

        hello = [{"role": "user", "content": "Hello"}]
        try:
            with self._client.chat(hello, stream=True, max_tokens=_MOST if self._http else 1) as stream:
                next(stream, None)
        except InvalidRequestError as error:
            self._context = _room(str(error)).context or self._context
            if _NO_TEMPLATE.search(str(error)):
                raise ConfigError(f"{url}: the model {self.name} can't chat: {_first(str(error))}; {_RAW}") from None
        except ClientError:
            # As busy as it may be now, it may answer the first message; if not, that will say why.
            return

    def _listen(
        self, messages: list[dict[str, Any]], options: Any, limit: int, *, tight: bool
    ) -> Generator[Piece, None, None]:
        if self._raw:
            stream = self._client.generate(as_text(messages), stream=True, **options)
        else:
            stream = self._client.chat(messages, stream=True, **options)
        with stream:
            for chunk in stream:
                # Triton itself doesn't refuse what leaves too little room: the first piece tells.
                if not tight and chunk.num_input_tokens + min(limit, self._context // 4) > self._context > 0:
                    raise TooLongError(f"the conversation has {chunk.num_input_tokens} of {self._context} tokens")
                full = chunk.finish_reason == "length" and chunk.num_output_tokens < limit
                if full and not self._http:
                    self._context = chunk.num_input_tokens + chunk.num_output_tokens
                yield Piece(
                    text=chunk.text, tokens=chunk.num_output_tokens, finish_reason=chunk.finish_reason, full=full
                )


def _only(models: Sequence[Any], url: str) -> str:
    """Return the name of the one model that a server has ready."""
    # A model may be there in several versions.
    names = sorted({model.name for model in models if model.ready})
    if len(names) != 1:
        raise ConfigError(
            f"{url}: serves {', '.join(names)}; choose one: --model NAME"
            if names
            else f"{url}: no model is ready there"
        )
    return str(names[0])


def _name(artifact: Path) -> str:
    """Return what the model of an artifact is called where it is served, or its folder's name."""
    served = sorted((artifact / REPOSITORY).glob("*/config.pbtxt"))
    if len(served) == 1:
        return served[0].parent.name
    return artifact.parent.name if (artifact.parent / "config.pbtxt").is_file() else artifact.name


def _first(text: str) -> str:
    """Return what a refusal says is wrong, without what it advises other callers."""
    return text.partition(";")[0].partition(", so it")[0]


@dataclass(frozen=True, kw_only=True)
class _Room:
    """What a server's refusal says of its context."""

    context: int
    """In tokens; 0 where the refusal is about something else."""
    left: int
    """Behind the prompt."""
    told: str = ""
    """The refusal, in words that fit a chat."""


def _room(refusal: str) -> _Room:
    for pattern in _TOO_LONG:
        if found := pattern.search(refusal):
            context, prompt = int(found["context"]), int(found["prompt"])
            told = (
                f"the conversation has {found['least'] or ''}{prompt} tokens, but the context of {context} leaves room "
                f"for {context - 1}; shorten the message"
            )
            return _Room(context=context, left=max(0, context - prompt), told=told)
    return _Room(context=0, left=0)
