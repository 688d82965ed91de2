"""What stands before pods: a Service's endpoints, the connections through it, and a rolling update."""

import random
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, Self

from deploy.life.kubelet import Pod

DELAY: Final = 1.0
"""Seconds until every node has heard that a pod became an endpoint, or is none any more."""


class Service:
    """The endpoints of some pods, as clients in a cluster know them: a moment late."""

    def __init__(self, pods: Sequence[Pod]) -> None:
        self._pods = pods

    def endpoints(self) -> list[str]:
        """Return the addresses of the pods that are ready and not about to end, as of a moment ago."""
        at = time.monotonic() - DELAY
        return [pod.sandbox.address for pod in tuple(self._pods) if pod.was_serving(at)]

    def pick(self) -> str:
        """Return one of them at random, as a Service and a list of DNS records do."""
        return random.choice(self.endpoints())


class Balancer:
    """A Service's own address: each connection goes to one endpoint, and stays there. A context manager."""

    def __init__(self, service: Service, port: int) -> None:
        """Prepare one in front of a port of the pods."""

        class Relay(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                # Without an endpoint, or where nobody listens, the connection just ends.
                with suppress(OSError, IndexError), socket.create_connection((service.pick(), port)) as there:
                    back = threading.Thread(target=_pass_on, args=(there, self.request), name="back")
                    back.start()
                    _pass_on(self.request, there)
                    back.join()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="balancer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        # Waits for the connections, which their callers have closed by now.
        self._server.server_close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes until it ends; each side may end by itself."""
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def roll_out(pods: list[Pod], make: Callable[[], Pod], deployment: Mapping[str, Any], stack: ExitStack) -> None:
    """Replace pods by new ones, as a Deployment does, and return when the last old one has ended.

    A pod more than wanted is there meanwhile, and never one less: the next one to go waits until a new one counts.
    """
    spec, old = deployment["spec"], list(pods)
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}, "no other strategy is played here"
    for before in old:
        pods.append(pod := stack.enter_context(make()))
        become_ready(pod)
        time.sleep(spec.get("minReadySeconds", 0))
        assert pod.is_ready, pod.story()
        before.delete()
    for before in old:
        before.wait()


def become_ready(pod: Pod, seconds: float = 60) -> float:
    """Return after how many seconds of its life a pod was ready."""
    deadline = time.monotonic() + seconds
    while not pod.is_ready:
        assert time.monotonic() < deadline, pod.story()
        time.sleep(0.02)
    return time.monotonic() - pod.began
