"""A real gRPC server that speaks Triton's protocol and answers generation requests as a test tells it to."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deploykit.client.tensors import elements

Answer = Callable[[Any, grpc.ServicerContext], Iterator[Any]]
"""From a ModelInferRequest to the responses of its stream."""


def piece(
    *texts: str,
    reasons: Sequence[str] = (),
    tokens: int | Sequence[int] = 1,
    prompt: int = 3,
    logprobs: Sequence[str] = (),
) -> Any:
    """A response as Triton's vLLM backend writes it: a text and its reason, or several texts with their `reasons`."""
    if not reasons:
        # The ordinary one: a text, and why it ends, if it does.
        texts, reasons = texts[:1], texts[1:] or ("None",)
    told = [tokens] if isinstance(tokens, int) else tokens
    response = service_pb2.ModelInferResponse(model_name="writer")
    for name, datatype, raw in (
        ("text_output", "BYTES", _strings(texts)),
        ("finish_reason", "BYTES", _strings(reasons)),
        ("num_input_tokens", "UINT32", _numbers([prompt])),
        ("num_output_tokens", "UINT32", _numbers(told)),
        *((("logprobs", "BYTES", _strings(logprobs)),) if logprobs else ()),
    ):
        response.outputs.add(name=name, datatype=datatype, shape=[len(texts)])
        response.raw_output_contents.append(raw)
    return service_pb2.ModelStreamInferResponse(infer_response=response)


def error(message: str) -> Any:
    """What Triton sends in a stream for an error: its text, without a code."""
    return service_pb2.ModelStreamInferResponse(error_message=message)


def _strings(texts: Sequence[str]) -> bytes:
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)


def _numbers(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def inputs(request: Any) -> dict[str, Any]:
    """The tensors of a request as Python values."""
    read: dict[str, Callable[[bytes], Any]] = {
        "BOOL": lambda raw: bool(raw[0]),
        "INT64": lambda raw: list(struct.unpack(f"<{len(raw) // 8}q", raw)),
        "BYTES": lambda raw: elements(raw)[0].decode(),
    }
    tensors = zip(request.inputs, request.raw_input_contents, strict=True)
    return {tensor.name: read[tensor.datatype](raw) for tensor, raw in tensors}


@dataclass
class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # generated without types
    """The part of Triton's service that the client calls."""

    answer: Answer = lambda request, context: iter([piece("a"), piece("b", "length")])
    models: list[tuple[str, str, str]] = field(default_factory=lambda: [("writer", "1", "READY")])
    requests: list[Any] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    """Seconds that each request had left when it came."""
    callers: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """The address that each request came from, and its metadata."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when a request was cancelled or its deadline passed."""
    facts: Any = None
    """What it says of its engine, or what makes the response from the call's context; None for a backend that doesn't
    know the question."""
    descriptions: int = 0
    """How often it was asked that; those requests aren't among the others."""

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - the protocol's name
        for request in requests:
            if "describe" in request.parameters:
                yield self._describe(context)
                continue
            self.requests.append(request)
            self.deadlines.append(context.time_remaining())
            self.callers.append((context.peer(), dict(context.invocation_metadata())))
            ended = threading.Event()
            context.add_callback(lambda ended=ended: None if ended.is_set() else self.gone.set())
            yield from self.answer(request, context)
            ended.set()

    def _describe(self, context: Any) -> Any:
        self.descriptions += 1
        if self.facts is None:
            return error("INVALID_ARGUMENT: the prompt is missing; give text_input, input_ids or messages")
        if callable(self.facts):
            return self.facts(context)
        return piece(json.dumps(self.facts), "stop", tokens=0, prompt=0)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        response = service_pb2.RepositoryIndexResponse()
        for name, version, state in self.models:
            response.models.add(name=name, version=version, state=state, reason="" if state == "READY" else "unloaded")
        return response

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        return service_pb2.ServerReadyResponse(ready=all(state == "READY" for _, _, state in self.models))

    def sampling(self) -> dict[str, Any]:
        """The sampling parameters of the last request."""
        return dict(json.loads(inputs(self.requests[-1]).get("sampling_parameters", "{}")))


@dataclass
class Running:
    """A server and where it listens."""

    service: Service
    port: int
    server: Any

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"


def run(service: Service, port: int = 0, *, host: str = "127.0.0.1", credentials: Any = None) -> Running:
    """Start a server; port 0 takes a free one, and with credentials it speaks TLS."""
    options = [("grpc.http2.max_ping_strikes", 0), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(8), options=options)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    address = f"{host}:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    return Running(service, bound, server)


class Wire:
    """A TCP relay between a client and a server that can fall silent without closing, as a dead network does."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._silent = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> None:
        self._silent.set()

    def cut(self) -> None:
        for end in self._open:
            end.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        while True:
            try:
                source.settimeout(0.05)
                data = source.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                sink.close()
                return
            if not self._silent.is_set():
                try:
                    sink.sendall(data)
                except OSError:
                    return


def trickle(request: Any, context: Any) -> Iterator[Any]:
    """Tokens without end, until the caller is gone."""
    while context.is_active():
        yield piece("x")
        time.sleep(0.01)
