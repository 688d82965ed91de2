"""Requests to a real Triton, over gRPC and over HTTP."""

import json
import queue
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from deploykit.serve import LocalServer

TYPES = {"O": "BYTES", "b": "BOOL"}
DTYPES: dict[type, Any] = {bool: np.bool_, int: np.int32, float: np.float32}


def post(url: str, body: bytes, timeout: float = 20) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=timeout) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def generate(server: LocalServer, *, verb: str = "generate", **fields: Any) -> tuple[int, str]:
    return post(f"{server.http_url}/v2/models/tiny/{verb}", json.dumps(fields).encode())


def inputs(**values: Any) -> list[Any]:
    """Inputs whose type follows from the value: numpy arrays as they are, else strings, booleans and 32-bit numbers."""
    made = []
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        coded = [item.encode() if isinstance(item, str) else item for item in items]
        dtype = DTYPES.get(type(items[0]), np.object_) if items else np.object_
        array = value if isinstance(value, np.ndarray) else np.array(coded, dtype)
        kind = TYPES.get(array.dtype.kind) or np_to_triton_dtype(array.dtype)
        made.append(triton.InferInput(name, list(array.shape), kind))
        made[-1].set_data_from_numpy(array)
    return made


@contextmanager
def stream(server: LocalServer, **values: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """Send a request over gRPC and give its responses, as lists by output name.

    `parameters` are the request's own ones, `timeout_us` is Triton's own time limit in microseconds, and `request_id`
    its name.
    """
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    own = {name: values.pop(name, None) for name in ("parameters", "timeout_us", "request_id")}

    def received() -> Iterator[dict[str, Any]]:
        while True:
            result, error = answers.get(timeout=20)
            if error is not None:
                raise error
            response = result.get_response()
            yield {output.name: result.as_numpy(output.name).tolist() for output in response.outputs}
            if response.parameters["triton_final_response"].bool_param:
                return

    client = triton.InferenceServerClient(server.grpc_url)
    try:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(
            "tiny",
            inputs(**values),
            enable_empty_final_response=True,
            parameters=own["parameters"],
            timeout=own["timeout_us"],
            request_id=own["request_id"] or "",
        )
        yield received()
    finally:
        client.stop_stream(cancel_requests=True)
        client.close()
