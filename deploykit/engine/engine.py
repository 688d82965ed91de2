"""The engine's public face: a packaged model that answers requests in this process."""

import math
import os
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from typing import Final, Self

from prometheus_client import Gauge

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig
from deploykit.engine.budget import Budget
from deploykit.engine.decoder import Decoder, make_decoder
from deploykit.engine.job import Job
from deploykit.engine.loop import EngineStats, Hooks, Loop
from deploykit.engine.metrics import Metrics, Stopwatch
from deploykit.engine.params import SamplingParams, check_params
from deploykit.engine.penalties import bad_word_tokens
from deploykit.engine.request import Answer, Completion, Event, Listener, Request
from deploykit.engine.sampling import Sampler
from deploykit.engine.scheduler import Scheduler
from deploykit.engine.session import open_encoder, open_session
from deploykit.engine.text import Codec, read_prompt
from deploykit.errors import EngineError, RequestError
from deploykit.spec import DecoderSpec, Precision


class Engine:
    """A model that answers many requests at once, each as if it were alone; a context manager."""

    def __init__(
        self,
        decoder: Decoder,
        spec: DecoderSpec,
        codec: Codec | None,
        config: EngineConfig,
        *,
        budget: Budget,
        hooks: Hooks | None = None,
    ) -> None:
        """Start the loop on parts that are at hand; `Engine.open` makes them from an artifact."""
        self.context: Final = budget.context
        """Longest prompt and answer together, in tokens; of an encoder-decoder, an answer with its beginning."""
        self.source: Final = budget.source
        """Longest prompt, in tokens, where an encoder reads it; None elsewhere."""
        self.metrics: Final = Metrics()
        """What it has counted and timed, for Prometheus."""
        self._spec = spec
        self._codec = codec
        scheduler = Scheduler(
            max_rows=config.max_rows,
            max_queue=config.max_queue,
            chunk=config.prefill_chunk,
            cache_tokens=budget.tokens,
        )
        self._loop = Loop(decoder, scheduler, self.metrics, hooks or Hooks())
        self._show(self.metrics.running, lambda stats: stats.running)
        self._show(self.metrics.waiting, lambda stats: stats.waiting)
        self._show(self.metrics.cache_usage, lambda stats: stats.used_tokens / budget.tokens)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        config: EngineConfig = EngineConfig(),
        *,
        precision: Precision | None = None,
        on_beat: Callable[[], None] = lambda: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> Self:
        """Return an engine that runs the artifact at `path`, its files verified.

        Args:
            path: the artifact's folder.
            config: how much to run at once.
            precision: which of its graphs; the one that the configuration's mode runs where None.
            on_beat: a sign of life, called from the loop's thread at every step and at least once a second.
            on_step: called from the loop's thread after a step's last event.

        Raises:
            ArtifactError: the artifact is missing, damaged, or can't be loaded.
            ConfigError: it can't run as `config` says.
        """
        artifact = Artifact.open(path)
        precision = precision or artifact.precision_for(config.mode)
        spec = artifact.contract(precision)
        # Once before the weights are loaded, for errors to come early, and once after, for the memory that is left.
        Budget.of(spec, config)
        session = open_session(artifact, precision=precision, threads=config.threads)
        encoder = open_encoder(artifact, precision=precision, threads=config.threads)
        budget = Budget.of(spec, config)
        decoder = make_decoder(
            session,
            spec,
            rows=config.max_rows,
            capacity=budget.context,
            cache_bytes=budget.bytes,
            encoder=encoder,
        )
        codec = Codec.open(artifact.tokenizer) if artifact.tokenizer else None
        return cls(decoder, spec, codec, config, budget=budget, hooks=Hooks(on_beat=on_beat, on_step=on_step))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return a prompt's tokens, to be submitted as they are; any thread may call.

        Args:
            text: the prompt.
            add_special_tokens: whether the tokenizer adds its own, such as a first <s>; a chat template has written
                them itself.

        Raises:
            RequestError: the prompt is empty, too long or no text.
        """
        return read_prompt(
            text,
            self._codec,
            vocab_size=self._spec.vocab_size,
            context=self.context,
            source=self.source,
            add_special_tokens=add_special_tokens,
        )

    def room(self, prompt: int) -> int:
        """Return how long an answer can be after a prompt of so many tokens."""
        encoder = self._spec.encoder
        return self.context - (len(encoder.decoder_prompt) if encoder else prompt)

    def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        on_event: Listener,
        client: str = "",
        priority: int = 0,
        timeout: float | None = None,
        request_id: str = "",
    ) -> Request:
        """Queue a request and return a handle to cancel it by; any thread may call.

        Args:
            prompt: a text, or token ids; of an encoder-decoder, what its encoder reads.
            params: how to choose tokens and when to stop.
            on_event: told of each token by the engine's thread, so it must be quick; if it raises, the request ends.
            client: whose request it is; clients share the model evenly.
            priority: lower goes first.
            timeout: seconds it may wait before it begins; it ends with the reason `timeout` after that.
            request_id: what to call it in logs.

        Raises:
            RequestError: the prompt is empty, too long or no text, or a parameter doesn't suit the model; nothing has
                run.
            QueueFullError: as many requests wait already as may.
            EngineError: the engine has stopped.
        """
        tokens = read_prompt(
            prompt, self._codec, vocab_size=self._spec.vocab_size, context=self.context, source=self.source
        )
        begun, source = self._beginning(tokens)
        check_params(params, vocab_size=self._spec.vocab_size)
        banned = self._spell(params.bad_words)
        _check_terms(client, priority, request_id)
        deadline = _deadline(timeout)

        def answer(index: int) -> Answer:
            return Answer(
                params,
                index=index,
                job=Job(begun, source=source, client=client, priority=priority, deadline=deadline),
                sampler=Sampler(
                    params,
                    index=index,
                    prompt=begun,
                    eos=self._eos,
                    bad_words=banned,
                    vocab_size=self._spec.vocab_size,
                ),
                watch=Stopwatch(self.metrics, prompt_tokens=len(tokens)),
                room=self.room(len(tokens)),
                eos=self._eos,
                codec=self._codec,
                listener=on_event,
                request_id=request_id,
            )

        request = Request(tuple(answer(index) for index in range(params.n)), on_cancel=self._loop.cancel)
        self._loop.add(request)
        return request

    def stream(
        self, prompt: str | Sequence[int], params: SamplingParams = SamplingParams()
    ) -> Generator[Event, None, None]:
        """Yield a request's events as they come, those of its `n` answers mixed; closing the generator cancels it.

        Raises:
            RequestError: as `submit`, at the first `next`.
        """
        events: SimpleQueue[Event] = SimpleQueue()
        request = self.submit(prompt, params, on_event=events.put)
        try:
            unfinished = params.n
            while unfinished:
                event = events.get()
                unfinished -= event.finish_reason is not None
                yield event
        finally:
            request.cancel()

    def generate(self, prompt: str | Sequence[int], params: SamplingParams = SamplingParams()) -> Completion:
        """Return the whole answer.

        Raises:
            RequestError: as `submit`; or `params` ask for several answers, which `choices` returns.
            EngineError: the model failed on this request.
        """
        if params.n > 1:
            raise RequestError(f"generate returns one answer, and n is {params.n}; call choices")
        return self.choices(prompt, params)[0]

    def choices(self, prompt: str | Sequence[int], params: SamplingParams) -> tuple[Completion, ...]:
        """Return all `n` answers.

        Raises:
            RequestError: as `submit`.
            EngineError: the model failed on this request.
        """
        events: list[list[Event]] = [[] for _ in range(params.n)]
        for event in self.stream(prompt, params):
            events[event.index].append(event)
            if event.finish_reason == "error":
                raise EngineError(event.error)
        return tuple(map(_completion, events))

    def stats(self) -> EngineStats:
        """Return what the engine does now, and has done."""
        return self._loop.stats()

    @property
    def alive(self) -> bool:
        """Whether requests are taken and run: not after `close`, nor after a failure of the loop itself."""
        return self._loop.alive

    def close(self) -> None:
        """Cancel what is open and stop; a second call does nothing."""
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, gauge: Gauge, read: Callable[[EngineStats], float]) -> None:
        """Let a gauge read what goes on now.

        Weakly: in a circle with its figures, an engine let go of would keep its weights until the collector comes by.
        """
        stats = weakref.WeakMethod(self.stats)
        gauge.set_function(lambda: read(now()) if (now := stats()) else 0)

    @property
    def _eos(self) -> frozenset[int]:
        return frozenset(self._spec.eos_token_ids)

    def _beginning(self, prompt: list[int]) -> tuple[list[int], tuple[int, ...]]:
        """Return the tokens that an answer follows, and those that an encoder reads, of a prompt's."""
        encoder = self._spec.encoder
        # One tuple for all answers: by that the decoder knows that they share what was read.
        return (list(encoder.decoder_prompt), tuple(prompt)) if encoder else (prompt, ())

    def _spell(self, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        if words and self._codec is None:
            raise RequestError("this model has no tokenizer, so it can't spell bad_words; use logit_bias")
        return bad_word_tokens(words, self._codec.spell) if words and self._codec else ()


def _check_terms(client: object, priority: object, request_id: object) -> None:
    # Of another type they would fail in the loop, where they would end everyone's requests.
    for name, value in (("client", client), ("request_id", request_id)):
        if not isinstance(value, str):
            raise RequestError(f"{name} must be a text, got {type(value).__name__}")
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise RequestError(f"priority must be an integer, got {type(priority).__name__}")


def _deadline(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if not 0 < timeout < math.inf:
        raise RequestError(f"timeout must be more than 0 seconds, got {timeout}")
    return time.monotonic() + timeout


def _completion(events: Sequence[Event]) -> Completion:
    last = events[-1]
    assert last.finish_reason
    return Completion(
        text="".join(event.text for event in events),
        token_ids=tuple(token for event in events for token in event.token_ids),
        logprobs=tuple(logprob for event in events for logprob in event.logprobs),
        finish_reason=last.finish_reason,
        num_input_tokens=last.num_input_tokens,
        num_output_tokens=last.num_output_tokens,
        cumulative_logprob=last.cumulative_logprob,
    )
