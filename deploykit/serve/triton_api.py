"""Every call of Triton's Python-backend interface that deploykit makes; importable only inside Triton.

Server 2.51 (Python 3.11), which the tests run, and 2.71 (Python 3.12) both have them. Nothing else of deploykit
imports `triton_python_backend_utils`.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from deploykit.serve.answer import Outputs
from deploykit.serve.metrics import Kind
from deploykit.serve.refusal import Code, Refusal

_DTYPES: Final = {
    "cumulative_logprob": np.float32,
    "num_input_tokens": np.uint32,
    "num_output_tokens": np.uint32,
}
"""Of the outputs that aren't texts."""
_RECURRING: Final = 4096
"""Short outputs kept ready in Triton's shared memory, each about 300 bytes there."""
_SHORT: Final = 32
"""Characters of an output's texts that are worth keeping: a token's or two."""


# By name: the stub adds them to `TritonError` only after this import. There is none for a deadline; where Triton's own
# queue lets a request time out, it says UNAVAILABLE as well.
_CODES: Final = {Code.INVALID_ARGUMENT: "INVALID_ARG", Code.DEADLINE_EXCEEDED: "UNAVAILABLE"}


def inputs(request: Any) -> dict[str, NDArray[Any]]:
    """Return a request's input tensors by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def parameters(request: Any) -> str:
    """Return a request's own parameters as a JSON object.

    Triton keeps `priority` and `timeout` of gRPC and `/infer` for itself, and hands on the second one only.
    """
    return str(request.parameters())


def request_id(request: Any) -> str:
    """Return what the caller calls the request; empty where it has no name."""
    return str(request.request_id())


def timeout(request: Any) -> float | None:
    """Return the seconds that Triton's own parameter `timeout` allows, if it was given."""
    microseconds = int(request.timeout())
    return microseconds / 1e6 if microseconds else None


class Sender:
    """Where the responses to one request go."""

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()

    def is_cancelled(self) -> bool:
        """Return whether the caller has gone or has cancelled."""
        return bool(self._sender.is_cancelled())

    def send(self, outputs: Outputs, *, last: bool) -> None:
        """Send a response."""
        response = pb_utils.InferenceResponse([_tensor(name, values) for name, values in outputs.items()])
        self._sender.send(response, flags=_final() if last else 0)

    def fail(self, refusal: Refusal) -> None:
        """Send an error as the last response."""
        # Triton drops the code of an error inside a gRPC stream, so its name comes first in the text as well.
        code = refusal.code
        known = getattr(pb_utils.TritonError, _CODES.get(code, code.value))
        error = pb_utils.TritonError(f"{code.value}: {refusal.message}", known)
        self._sender.send(pb_utils.InferenceResponse(error=error), flags=_final())

    def close(self) -> None:
        """Say that there is no further response."""
        self._sender.send(flags=_final())


def _tensor(name: str, values: tuple[Any, ...]) -> Any:
    """Return a tensor; making one costs more than sending one, so those that come again and again are kept."""
    if name == "cumulative_logprob" or any(isinstance(value, str) and len(value) > _SHORT for value in values):
        return _new_tensor(name, values)
    return _kept_tensor(name, values)


def _new_tensor(name: str, values: tuple[Any, ...]) -> Any:
    if name in _DTYPES:
        return pb_utils.Tensor(name, np.array(values, _DTYPES[name]))
    return pb_utils.Tensor(name, np.array([value.encode("utf-8", errors="replace") for value in values], np.object_))


_kept_tensor = lru_cache(maxsize=_RECURRING)(_new_tensor)


def _final() -> int:
    return int(pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class NoMetricsError(Exception):
    """Triton keeps no metrics: it was started so."""


class Family:
    """A metric of this model in Triton's `/metrics`, with one set of values for each set of labels."""

    def __init__(self, name: str, kind: Kind, description: str) -> None:
        # Triton's object must outlive those of its labels.
        try:
            self._family = pb_utils.MetricFamily(
                name=name, description=description, kind=getattr(pb_utils.MetricFamily, kind.upper())
            )
        except pb_utils.TritonModelException as error:
            raise NoMetricsError(str(error)) from None

    def metric(self, labels: Mapping[str, str], bounds: list[float] | None = None) -> Any:
        """Return what has `increment`, `set` or `observe`, as its kind is; `bounds` are a histogram's."""
        return self._family.Metric(labels=dict(labels), **({"buckets": bounds} if bounds else {}))


def model_error(message: str) -> Exception:
    """Return what `initialize` raises so that Triton shows `message`."""
    return pb_utils.TritonModelException(message)  # type: ignore[no-any-return]


def log_info(message: str) -> None:
    """Write to Triton's log."""
    pb_utils.Logger.log_info(f"deploykit: {message}")


def log_error(message: str) -> None:
    """Write an error to Triton's log."""
    pb_utils.Logger.log_error(f"deploykit: {message}")
