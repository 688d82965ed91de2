"""The client for event loops: a connection to a server, and what can be asked of it."""

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

from deploykit.client.address import TLS
from deploykit.client.async_stream import AsyncTextStream, perform, run_batch
from deploykit.client.batch import CONCURRENCY, Batch, for_one_text, numbered
from deploykit.client.core import PROBE_TIMEOUT, Core, seconds
from deploykit.client.dialect import Prompt, read_chat
from deploykit.client.errors import ClientError
from deploykit.client.retry import TRIES
from deploykit.client.sampling import Options
from deploykit.client.transport import KEEPALIVE, Transport, transport_to
from deploykit.client.values import Completion, Health, Model


class AsyncClient:
    """A client of one server, for one event loop; what `Client` says of deadlines and further tries holds here, too.

    Example:
        ```python
        import asyncio
        from deploykit.client import AsyncClient

        async def main() -> None:
            async with AsyncClient("localhost:8001") as client:
                print((await client.generate("def fib(n):", max_tokens=64)).text)

        asyncio.run(main())
        ```
    """

    def __init__(
        self,
        url: str = "localhost:8001",
        *,
        model: str | None = None,
        timeout: float = 60.0,
        api_key: str | None = None,
        tls: TLS | None = None,
        tries: int = TRIES,
        keepalive: float = KEEPALIVE,
        transport: Transport | None = None,
    ) -> None:
        """Make a client; it connects with the first call, and stays with that call's event loop.

        Args:
            url: `HOST:PORT` of Triton's gRPC endpoint, `grpcs://HOST:PORT` for TLS, `dns:///HOST:PORT` to go in turn to
                all addresses of a name, or `http://` and `https://` for the gateway.
            model: the model to ask; where None, the server's only one.
            timeout: seconds a call may take, unless it is given its own.
            api_key: sent as a bearer token with each request.
            tls: certificates, where the system's don't do; with them a bare `HOST:PORT` speaks TLS, too.
            tries: times a request may be sent, 1 to 3: 1 for who is asked by someone that asks again already.
            keepalive: seconds of silence after which the connection is checked; a dead one is found after 1.4 times
                that.
            transport: a server made up by a test, instead of `url`; see `deploykit.client.testing`.

        Raises:
            InvalidRequestError: one of these can't be.
        """
        way = transport or transport_to(url, keepalive=seconds("keepalive", keepalive), tls=tls, api_key=api_key)
        self._core = Core(way, model=model, timeout=timeout, tries=tries)
        self._connection = way.connect_async()

    @overload
    def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[False] = False, **options: Unpack[Options]
    ) -> Coroutine[Any, Any, Completion]: ...

    @overload
    def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[True], **options: Unpack[Options]
    ) -> AsyncTextStream: ...

    @overload
    def generate(
        self, prompt: str | Sequence[int], *, stream: bool, **options: Unpack[Options]
    ) -> Coroutine[Any, Any, Completion] | AsyncTextStream: ...

    def generate(
        self, prompt: str | Sequence[int], *, stream: bool = False, **options: Unpack[Options]
    ) -> Coroutine[Any, Any, Completion] | AsyncTextStream:
        """Return the model's continuation of `prompt`.

        Args:
            prompt: the text to continue, or its token ids.
            stream: whether to return the pieces as they are generated, instead of the whole at the end.
            options: `timeout`, `max_tokens`, `temperature`, `seed`, `stop` and the other fields of `Options`.

        Raises:
            ClientError: the call failed; with `stream`, this comes while the stream is read.

        Example:
            ```python
            import asyncio
            from deploykit.client import AsyncClient

            async def main() -> None:
                async with AsyncClient("localhost:8001") as client:
                    answer = await client.generate("def ", max_tokens=64, temperature=0.8)
                    print(answer.text)
                    async with client.generate("def ", stream=True, timeout=30) as stream:
                        async for chunk in stream:
                            print(chunk.text, end="", flush=True)

            asyncio.run(main())
            ```
        """
        answer = AsyncTextStream(self._core.exchange(prompt, options, stream=stream), self._connection)
        return answer if stream else answer.completion()

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        stream: Literal[False] = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[Options],
    ) -> Coroutine[Any, Any, Completion]: ...

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        stream: Literal[True],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[Options],
    ) -> AsyncTextStream: ...

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        stream: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[Options],
    ) -> Coroutine[Any, Any, Completion] | AsyncTextStream: ...

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        stream: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[Options],
    ) -> Coroutine[Any, Any, Completion] | AsyncTextStream:
        """Return the model's answer to a chat, which the server writes out with the model's own chat template.

        Args:
            messages: what was said so far; see `Message`.
            stream: whether to return the pieces as they are generated, instead of the whole at the end.
            tools: descriptions of functions, for templates that know what to do with them.
            options: `timeout`, `max_tokens`, `temperature`, `seed`, `stop` and the other fields of `Options`.

        Raises:
            ClientError: the call failed; with `stream`, this comes while the stream is read.

        Example:
            ```python
            import asyncio
            from deploykit.client import AsyncClient

            async def main() -> None:
                async with AsyncClient("localhost:8001") as client:
                    answer = await client.chat([{"role": "user", "content": "Hello!"}], max_tokens=32)
                    print(answer.text)

            asyncio.run(main())
            ```
        """
        exchange = self._core.exchange(read_chat(messages), options, stream=stream, tools=tools)
        answer = AsyncTextStream(exchange, self._connection)
        return answer if stream else answer.completion()

    @overload
    async def batch(
        self,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = CONCURRENCY,
        return_errors: Literal[False] = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[Options],
    ) -> list[Completion]: ...

    @overload
    async def batch(
        self,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = CONCURRENCY,
        return_errors: Literal[True],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[Options],
    ) -> list[Completion | ClientError]: ...

    async def batch(
        self,
        prompts: Iterable[Prompt],
        *,
        concurrency: int = CONCURRENCY,
        return_errors: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Return the answers to many prompts, in the prompts' order; several are asked at a time.

        Args:
            prompts: texts, lists of token ids, or lists of messages.
            concurrency: how many are asked at a time, at most.
            return_errors: whether a failure stands in its answer's place. Otherwise the first one ends the batch: what
                runs is cancelled, and the error says which prompt it was, as `prompts[3]: …`.
            tools: as of `chat`; only with messages.
            options: as of `generate`, for each of the prompts; `timeout` begins when a prompt is asked, and the place
                is added to a `request_id`.

        Raises:
            ClientError: a call failed.

        Example:
            ```python
            import asyncio
            from deploykit.client import AsyncClient

            async def main() -> None:
                async with AsyncClient("localhost:8001") as client:
                    for answer in await client.batch(["def ", "class ", "import "], max_tokens=16):
                        print(answer.text)

            asyncio.run(main())
            ```
        """
        work = Batch(prompts, concurrency=concurrency, return_errors=return_errors)

        def ask(prompt: object, place: int) -> AsyncTextStream:
            exchange = self._core.exchange(prompt, numbered(options, place), stream=False, tools=tools)
            return AsyncTextStream(exchange, self._connection)

        await run_batch(work, ask)
        return work.answers()

    def open_stream(
        self, prompt: Prompt, *, tools: Sequence[Mapping[str, Any]] | None = None, **options: Unpack[Options]
    ) -> AsyncTextStream:
        """Return the stream of the answer to any kind of prompt: a text, token ids or messages.

        Nothing is sent before the stream is entered or read.

        Args:
            prompt: the text or token ids to continue, or the messages to answer.
            tools: descriptions of functions; only with messages.
            options: as of `generate`.

        Raises:
            InvalidRequestError: the prompt or an option can't be sent; all else comes while the stream is read.

        Example:
            ```python
            import asyncio
            from deploykit.client import AsyncClient

            async def main() -> None:
                async with AsyncClient("localhost:8001") as client:
                    async with client.open_stream([1, 15, 27], max_tokens=8, n=2, temperature=0.8) as stream:
                        async for chunk in stream:
                            print(chunk.index, chunk.text)

            asyncio.run(main())
            ```
        """
        return AsyncTextStream(self._core.exchange(prompt, options, stream=True, tools=tools), self._connection)

    @overload
    async def translate(self, text: str, **options: Unpack[Options]) -> str: ...

    @overload
    async def translate(
        self, text: list[str] | tuple[str, ...], *, concurrency: int = CONCURRENCY, **options: Unpack[Options]
    ) -> list[str]: ...

    async def translate(
        self, text: str | list[str] | tuple[str, ...], *, concurrency: int = CONCURRENCY, **options: Unpack[Options]
    ) -> str | list[str]:
        """Return what an encoder-decoder makes of a text, or of each of several, in their order.

        Args:
            text: what to translate (or to summarize, or whatever the model was trained to do with it); of several,
                some are asked at a time.
            concurrency: how many, at most.
            options: as of `generate`, for each of the texts; without `max_tokens`, an answer may fill the model's
                context.

        Raises:
            ClientError: a call failed; among several, it says which as `batch` does.

        Example:
            ```python
            import asyncio
            from deploykit.client import AsyncClient

            async def main() -> None:
                async with AsyncClient("localhost:8001") as client:
                    print(await client.translate("Good morning"))
                    for text in await client.translate(["one", "two", "three"], concurrency=2):
                        print(text)

            asyncio.run(main())
            ```
        """
        asked = for_one_text(options)
        if isinstance(text, str):
            return (await self.generate(text, **asked)).text
        return [answer.text for answer in await self.batch(text, concurrency=concurrency, **asked)]

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Return the models in the server's repository, in alphabetical order.

        Those that aren't ready are among them, unless the server tells callers nothing of its repository.

        Raises:
            ClientError: the server doesn't answer or doesn't tell.

        Example:
            ```python
            import asyncio
            from deploykit.client import AsyncClient

            async def main() -> None:
                async with AsyncClient("localhost:8001") as client:
                    for model in await client.models():
                        print(model.name, model.version, "ready" if model.ready else model.reason)

            asyncio.run(main())
            ```
        """
        return await perform(self._core.models(timeout), self._connection)

    async def health(self, *, timeout: float = PROBE_TIMEOUT) -> Health:
        """Return how the server is; one that can't be reached is neither live nor ready.

        Raises:
            ClientError: it answers, but not as such a server does, or refuses this caller.

        Example:
            ```python
            import asyncio
            from deploykit.client import AsyncClient

            async def main() -> None:
                async with AsyncClient("localhost:8001") as client:
                    print(await client.health(timeout=2))

            asyncio.run(main())
            ```
        """
        return await perform(self._core.health(timeout), self._connection)

    async def is_ready(self, *, timeout: float = PROBE_TIMEOUT) -> bool:
        """Return whether the server and all its models are ready.

        Example:
            ```python
            import asyncio
            from deploykit.client import AsyncClient

            async def main() -> None:
                async with AsyncClient("localhost:8001") as client:
                    while not await client.is_ready():
                        await asyncio.sleep(1)

            asyncio.run(main())
            ```
        """
        return (await self.health(timeout=timeout)).ready

    async def close(self) -> None:
        """Close the connection; streams that still run are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
