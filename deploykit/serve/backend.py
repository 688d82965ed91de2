"""The model as Triton's Python backend runs it: requests in, the engine's events out."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deploykit.engine import Engine, SamplingParams
from deploykit.errors import DeploykitError, EngineError, QueueFullError, RequestError
from deploykit.serve import triton_api
from deploykit.serve.courier import LOOK, Courier, Delivery
from deploykit.serve.facts import describe
from deploykit.serve.heartbeat import DIRECTORY_VARIABLE, HeartbeatWriter, State
from deploykit.serve.metrics import Publisher
from deploykit.serve.prompt import Chat
from deploykit.serve.protocol import read_query
from deploykit.serve.settings import artifact_folder, engine_config, load_number

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
        self._courier = Courier(on_change=self._count, on_failure=_log_failure)
        folder = artifact_folder(Path(args["model_repository"]) / args["model_version"])
        try:
            config = engine_config(parameters, os.environ)
            self._engine = Engine.open(folder, config, on_beat=self._beat, on_step=self._courier.step)
            warm_up(self._engine)
            if self._heart:
                self._heart.describe(describe(folder, config, self._engine))
        except DeploykitError as error:
            raise triton_api.model_error(str(error)) from None
        self._publisher = _publisher(self._engine, {"model": args["model_name"], "version": args["model_version"]})
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
        if self._publisher:
            self._publisher.close()
        self._say(State.CLOSED)

    def _take(self, sender: triton_api.Sender, request: Any) -> None:
        try:
            query = read_query(
                triton_api.inputs(request), triton_api.parameters(request), timeout=triton_api.timeout(request)
            )
            params = SamplingParams.from_mapping(query.sampling)
            prompt = query.prompt
            if isinstance(prompt, Chat):
                raise RequestError("this model has no chat template; send the whole prompt as text_input or input_ids")
            self._courier.take(
                Delivery(sender, query, n=params.n),
                lambda on_event: self._engine.submit(
                    prompt,
                    params,
                    on_event=on_event,
                    client=query.client,
                    priority=query.priority,
                    timeout=query.timeout,
                ),
            )
        except QueueFullError as error:
            sender.fail(str(error), triton_api.Code.UNAVAILABLE)
        except EngineError:
            sender.fail("the engine has stopped and will be restarted; try again", triton_api.Code.UNAVAILABLE)
        except RequestError as error:
            sender.fail(str(error), triton_api.Code.INVALID_ARGUMENT)
        except Exception as error:  # one request's failure is not the others'
            _log_failure(error)
            sender.fail("the server failed on this request; its log says more")

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


def _log_failure(error: Exception) -> None:
    """Log where something failed, without its message: that might hold a prompt or a path."""
    trace = error.__traceback__ or sys.exc_info()[2]
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
    triton_api.log_error(f"a request failed: {type(error).__name__} at {where}")
