"""The model as Triton's Python backend runs it: requests in, the engine's events out."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from deploykit.config import EngineConfig
from deploykit.engine import Engine, Event, SamplingParams
from deploykit.errors import DeploykitError
from deploykit.serve import triton_api
from deploykit.serve.chat import ChatDesk
from deploykit.serve.courier import LOOK, Cancellable, Courier, Delivery
from deploykit.serve.facts import answer_with, describe
from deploykit.serve.heartbeat import DIRECTORY_VARIABLE, HeartbeatWriter, State
from deploykit.serve.inherited import inherited_file
from deploykit.serve.metrics import Publisher
from deploykit.serve.prompt import Chat
from deploykit.serve.protocol import Query, read_query
from deploykit.serve.record import Record
from deploykit.serve.refusal import UNEXPECTED, refusal_of
from deploykit.serve.request_log import RequestLog
from deploykit.serve.settings import artifact_folder, engine_config, load_number
from deploykit.serve.tracing import Tracing, open_tracing

WARM_UP_TOKENS: Final = 4
"""Tokens of the prompt that a model runs before it is ready, and of the answer."""


class TritonPythonModel:
    """What `model.py` offers to Triton."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the artifact that `model.py` lies in."""
        directory = os.environ.get(DIRECTORY_VARIABLE)
        parameters = json.loads(args["model_config"]).get("parameters", {})
        load = load_number(parameters)
        self._heart = HeartbeatWriter(Path(directory), args["model_name"], load=load) if directory else None
        self._state = State.LOADING
        self._say(self._state)
        self._courier = Courier(on_change=self._count, on_failure=_log_failure, on_end=self._ended)
        self._witnesses: list[RequestLog | Tracing] = []
        folder = artifact_folder(Path(args["model_repository"]) / args["model_version"])
        labels = {"model": args["model_name"], "version": args["model_version"]}
        try:
            config = engine_config(parameters, os.environ)
            self._engine = Engine.open(folder, config, on_beat=self._beat, on_step=self._courier.step)
            warm_up(self._engine)
            facts = describe(folder, config, self._engine)
        except DeploykitError as error:
            raise triton_api.model_error(str(error)) from None
        if self._heart:
            self._heart.describe(facts)
        self._facts = json.dumps(facts)
        self._continues = self._engine.source is None
        encode = partial(self._engine.encode, add_special_tokens=False)
        self._desk = ChatDesk(folder, encode, most=config.max_queue, on_failure=_log_failure)
        self._witnesses = _witnesses(config, labels)
        self._publisher = _publisher(self._engine, labels)
        # The engine beats from its first step on, which is one of the warm-up.
        self._state = State.SERVING
        self._beat()

    def execute(self, requests: list[Any]) -> None:
        """Take requests; their responses follow on another thread."""
        for request in requests:
            self._take(triton_api.Sender(request), request)

    def finalize(self) -> None:
        """Let open requests finish and close the engine."""
        # Closing the engine cancels what is open. Triton bounds this wait by its exit timeout.
        while self._courier.open_requests() and self._courier.is_alive():
            time.sleep(LOOK)
        self._engine.close()
        self._courier.close()
        self._desk.close()
        for witness in self._witnesses:
            witness.close()
        if self._publisher:
            self._publisher.close()
        self._say(State.CLOSED)

    def _take(self, sender: triton_api.Sender, request: Any) -> None:
        arrived, name, query = time.monotonic(), "", None
        try:
            name = triton_api.request_id(request)
            query = read_query(
                triton_api.inputs(request),
                triton_api.parameters(request),
                timeout=triton_api.timeout(request),
                request_id=name,
                continues=self._continues,
            )
            params = SamplingParams.from_mapping(query.sampling)
            if query.describe:
                # At once and past the queue: nothing of it is the engine's, nor a request that the log should tell of.
                sender.send(answer_with(self._facts, query), last=True)
                return
            delivery = Delivery(sender, query, n=params.n)
            self._courier.take(delivery, partial(self._submit, delivery, params))
        except Exception as error:  # one request's failure is not the others'
            refusal = refusal_of(error)
            if refusal is UNEXPECTED:
                _log_failure(error, name)
            sender.fail(refusal)
            name, ended = query.request_id if query else name, time.monotonic()
            self._tell(Record(request_id=name, arrived=arrived, ended=ended, query=query, refusal=refusal))

    def _submit(self, delivery: Delivery, params: SamplingParams, on_event: Callable[[Event], None]) -> Cancellable:
        """Give a request to the engine; where its prompt takes a template, that comes first, on another thread."""
        query = delivery.query
        submit = partial(self._run, query, params, on_event)
        if not isinstance(query.prompt, Chat):
            return submit(query.prompt, query.timeout)
        refuse = partial(self._courier.refuse, delivery)
        return self._desk.take(query.prompt, timeout=query.timeout, submit=submit, refuse=refuse)

    def _run(
        self,
        query: Query,
        params: SamplingParams,
        on_event: Callable[[Event], None],
        prompt: str | Sequence[int],
        timeout: float | None,
    ) -> Cancellable:
        return self._engine.submit(
            prompt,
            params,
            on_event=on_event,
            client=query.client,
            priority=query.priority,
            timeout=timeout,
            request_id=query.request_id,
        )

    def _ended(self, delivery: Delivery) -> None:
        if self._witnesses:
            self._tell(Record.of(delivery))

    def _tell(self, record: Record) -> None:
        for witness in self._witnesses:
            try:
                witness(record)
            except Exception as error:  # what is told of a request is no reason to stop serving
                _log_failure(error, record.request_id)

    def _beat(self) -> None:
        """Say that the engine advances; not if nobody carries its events."""
        if self._courier.is_alive():
            self._say(self._state)

    def _say(self, state: State) -> None:
        if self._heart:
            self._heart.beat(state, self._courier.open_requests() if state is State.SERVING else 0)

    def _count(self, open_requests: int) -> None:
        if self._heart:
            self._heart.count(open_requests)


def warm_up(engine: Engine) -> None:
    """Run a short prompt and answer, so that nobody's first request pays for what is made only once."""
    engine.generate([0] * WARM_UP_TOKENS, SamplingParams(max_tokens=WARM_UP_TOKENS, ignore_eos=True))


def _publisher(engine: Engine, labels: Mapping[str, str]) -> Publisher | None:
    """Return what keeps Triton's metrics up to date, or None where Triton was started without any."""
    try:
        return Publisher(engine.metrics.samples, triton_api.Family, labels=labels, on_failure=_log_failure)
    except triton_api.NoMetricsError:
        return None


def _witnesses(config: EngineConfig, labels: Mapping[str, str]) -> list[RequestLog | Tracing]:
    """Return what is told of each request that has ended."""
    found: list[RequestLog | Tracing] = []
    if config.log_requests:
        found.append(RequestLog(inherited_file(os.environ), labels=labels, prompts=config.log_prompts))
    if tracing := open_tracing(os.environ, model=labels["model"], say=triton_api.log_error):
        found.append(tracing)
    return found


def _log_failure(error: Exception, request_id: str = "") -> None:
    """Log where something failed, without its message: that might hold a prompt or a path."""
    trace = error.__traceback__ or sys.exc_info()[2]
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
    name = f"request {request_id[:128]!a}" if request_id else "a request"
    triton_api.log_error(f"{name} failed: {type(error).__name__} at {where}")
