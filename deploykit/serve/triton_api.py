"""Every call of Triton's Python-backend interface that deploykit makes; importable only inside Triton.

Server 2.51 (Python 3.11), which the tests run, and 2.71 (Python 3.12) both have them. Nothing else of deploykit
imports `triton_python_backend_utils`.
"""

from enum import Enum
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from deploykit.serve.protocol import Tensors


class Code(Enum):
    """What kind of error a caller gets, by its name in `TritonError`: the stub adds that only after this import."""

    INVALID_ARGUMENT = "INVALID_ARG"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


def inputs(request: Any) -> dict[str, NDArray[Any]]:
    """Return a request's input tensors by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def parameters(request: Any) -> str:
    """Return a request's own parameters as a JSON object."""
    return str(request.parameters())


class Sender:
    """Where the responses to one request go."""

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()

    def is_cancelled(self) -> bool:
        """Return whether the caller has gone or has cancelled."""
        return bool(self._sender.is_cancelled())

    def send(self, tensors: Tensors, *, last: bool) -> None:
        """Send a response."""
        response = pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in tensors.items()])
        self._sender.send(response, flags=_final() if last else 0)

    def fail(self, message: str, code: Code = Code.INTERNAL) -> None:
        """Send an error as the last response."""
        # Triton drops the code of an error inside a gRPC stream, so its name comes first in the text as well.
        error = pb_utils.TritonError(f"{code.name}: {message}", getattr(pb_utils.TritonError, code.value))
        self._sender.send(pb_utils.InferenceResponse(error=error), flags=_final())

    def close(self) -> None:
        """Say that there is no further response."""
        self._sender.send(flags=_final())


def _final() -> int:
    return int(pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def model_error(message: str) -> Exception:
    """Return what `initialize` raises so that Triton shows `message`."""
    return pb_utils.TritonModelException(message)  # type: ignore[no-any-return]


def log_info(message: str) -> None:
    """Write to Triton's log."""
    pb_utils.Logger.log_info(f"deploykit: {message}")


def log_error(message: str) -> None:
    """Write an error to Triton's log."""
    pb_utils.Logger.log_error(f"deploykit: {message}")
