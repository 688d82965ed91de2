"""The engine's public face: a packaged model that answers requests in this process."""

import os
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from typing import Final, Self

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig
from deploykit.engine.decoder import Decoder, make_decoder
from deploykit.engine.loop import EngineStats, Loop
from deploykit.engine.params import SamplingParams
from deploykit.engine.request import Answer, Completion, Event, Listener, Request
from deploykit.engine.sampling import Sampler
from deploykit.engine.scheduler import Job, Scheduler
from deploykit.engine.session import open_session
from deploykit.engine.text import Codec, read_prompt
from deploykit.errors import ConfigError, EngineError
from deploykit.spec import DecoderSpec, Precision

DEFAULT_CONTEXT: Final = 4096
"""Longest row where nobody says, in tokens; see `EngineConfig.max_context`."""


class Engine:
    """A model that answers many requests at once, each as if it were alone; a context manager."""

    def __init__(
        self,
        decoder: Decoder,
        spec: DecoderSpec,
        codec: Codec | None,
        config: EngineConfig,
        *,
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the loop on parts that are at hand; `Engine.open` makes them from an artifact."""
        self.context: Final = _context(spec, config)
        """Longest prompt and answer together, in tokens."""
        self._spec = spec
        self._codec = codec
        scheduler = Scheduler(max_rows=config.max_rows, max_queue=config.max_queue, chunk=config.prefill_chunk)
        self._loop = Loop(decoder, scheduler, on_beat=on_beat)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        config: EngineConfig = EngineConfig(),
        *,
        precision: Precision | None = None,
        on_beat: Callable[[], None] = lambda: None,
    ) -> Self:
        """Return an engine that runs the artifact at `path`, its files verified.

        Args:
            path: the artifact's folder.
            config: how much to run at once.
            precision: which of its graphs; the served one where None.
            on_beat: a sign of life, called from the loop's thread at every step and at least once a second.

        Raises:
            ArtifactError: the artifact is missing, damaged, or can't be loaded.
            ConfigError: it can't run as `config` says.
        """
        artifact = Artifact.open(path)
        spec = artifact.contract(precision)
        context = _context(spec, config)
        session = open_session(artifact, precision=precision, threads=config.threads)
        decoder = make_decoder(session, spec, rows=config.max_rows, capacity=context)
        codec = Codec.open(artifact.tokenizer) if artifact.tokenizer else None
        return cls(decoder, spec, codec, config, on_beat=on_beat)

    def submit(self, prompt: str | Sequence[int], params: SamplingParams, *, on_event: Listener) -> Request:
        """Queue a request and return a handle to cancel it by; any thread may call.

        Args:
            prompt: a text, or token ids.
            params: how to choose tokens and when to stop.
            on_event: told of each token by the engine's thread, so it must be quick; if it raises, the request ends.

        Raises:
            RequestError: the prompt is empty, too long or no text; nothing has run.
            QueueFullError: as many requests wait already as may.
            EngineError: the engine has stopped.
        """
        tokens = read_prompt(prompt, self._codec, vocab_size=self._spec.vocab_size, context=self.context)
        answer = Answer(
            params,
            prompt=tokens,
            room=self.context - len(tokens),
            eos=frozenset(self._spec.eos_token_ids),
            codec=self._codec,
            listener=on_event,
        )
        request = Request(job=Job(tokens), sampler=Sampler(params), answer=answer, on_cancel=self._loop.cancel)
        self._loop.add(request)
        return request

    def stream(
        self, prompt: str | Sequence[int], params: SamplingParams = SamplingParams()
    ) -> Generator[Event, None, None]:
        """Yield a request's events as they come; closing the generator cancels it.

        Raises:
            RequestError: as `submit`, at the first `next`.
        """
        events: SimpleQueue[Event] = SimpleQueue()
        request = self.submit(prompt, params, on_event=events.put)
        try:
            finished = False
            while not finished:
                event = events.get()
                finished = event.finish_reason is not None
                yield event
        finally:
            request.cancel()

    def generate(self, prompt: str | Sequence[int], params: SamplingParams = SamplingParams()) -> Completion:
        """Return the whole answer.

        Raises:
            RequestError: as `submit`.
            EngineError: the model failed on this request.
        """
        events = list(self.stream(prompt, params))
        last = events[-1]
        if last.finish_reason == "error":
            raise EngineError(last.error)
        assert last.finish_reason
        return Completion(
            text="".join(event.text for event in events),
            token_ids=tuple(token for event in events for token in event.token_ids),
            finish_reason=last.finish_reason,
            num_input_tokens=last.num_input_tokens,
            num_output_tokens=last.num_output_tokens,
            cumulative_logprob=last.cumulative_logprob,
        )

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


def _context(spec: DecoderSpec, config: EngineConfig) -> int:
    if config.max_context is None:
        return min(spec.max_context, DEFAULT_CONTEXT)
    if config.max_context > spec.max_context:
        raise ConfigError(
            f"max_context must be at most {spec.max_context} tokens for this model, got {config.max_context}"
        )
    return config.max_context
