"""A pod by its manifest on a real Triton: from its start, through the deaths of its parts, to what it keeps closed."""

import copy
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from deploy.life.calling import GRPC, LONG_LOAD, NAME, ask, is_ready, part, says
from deploy.life.container import USER
from deploy.life.kubelet import Pod
from deploy.life.service import Service, become_ready
from stacks import until
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deploykit.client import Client

pytestmark = pytest.mark.triton

SOON = 5
"""Seconds until readiness is red after a death."""
RECOVERED = 30
"""Seconds until it is green again."""
STUB = "triton_python_backend_stub"
SERVER = "tritonserver"


@pytest.fixture(scope="module")
def pod(make_pod: Callable[..., Pod], manifest: Callable[..., dict[str, Any]]) -> Iterator[Pod]:
    """A pod that serves, and is to serve when a test leaves it."""
    with make_pod(manifest(pre_stop=1)) as pod:
        become_ready(pod)
        yield pod


def answer(address: str) -> str:
    with Client(f"{address}:{GRPC}", tries=1) as client:
        return ask(client)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_its_command_is_process_1_of_a_user_with_nothing(pod: Pod) -> None:
    if not pod.sandbox.strict:
        pytest.skip("needs root, to be somebody else in namespaces")
    for pid in (pod["triton"].pid, part(pod["triton"].pid, SERVER), part(pod["triton"].pid, STUB)):
        status = status_of(pid)
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(USER)}
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
    assert status_of(pod["triton"].pid)["NSpid"].split()[-1] == "1"


def test_it_is_no_endpoint_before_its_first_request_is_answered(
    make_pod: Callable[..., Pod], manifest: Callable[..., dict[str, Any]]
) -> None:
    # Liveness asked at once, every second, and believed soon: even that must not end a pod that takes long to load.
    hasty = copy.deepcopy(manifest("slow to load", pre_stop=1))
    triton = hasty["spec"]["template"]["spec"]["containers"][0]
    del triton["startupProbe"]
    triton["livenessProbe"] |= {"initialDelaySeconds": 3, "periodSeconds": 1, "failureThreshold": 2}
    triton["readinessProbe"] |= {"periodSeconds": 1}
    with make_pod(hasty, "slow to load") as pod:
        address, service, lively = pod.sandbox.address, Service([pod]), []
        while not is_ready(address):
            assert not pod.is_ready
            assert service.endpoints() == []
            lively.append(says(address, "/v2/health/live"))
            assert pod.began + 60 > time.monotonic(), pod.story()
            time.sleep(0.02)
        assert answer(address)
        assert time.monotonic() - pod.began > LONG_LOAD
        # Nobody answers at first, and then liveness is never red.
        assert set(lively[lively.index(200) :]) == {200}
        until(service.endpoints, 10)
        assert answer(service.pick())
        assert pod["triton"].restarts == 0


@pytest.mark.parametrize("program", [STUB, SERVER])
def test_a_killed_part_serves_again_without_the_kubelet(
    program: str, pod: Pod, record_property: Callable[[str, object], None]
) -> None:
    address, restarts, before = pod.sandbox.address, pod["triton"].restarts, part(pod["triton"].pid, program)
    os.kill(before, signal.SIGKILL)
    red = until(lambda: not is_ready(address), SOON)
    again = red + until(lambda: is_ready(address), RECOVERED)
    assert answer(address)
    assert part(pod["triton"].pid, program) != before
    assert pod["triton"].restarts == restarts
    record_property(f"{program} killed", {"red after": round(red, 2), "ready again after": round(again, 2)})
    until(lambda: zombies(pod["triton"].pid) == [], 5)


def zombies(pid: int) -> list[str]:
    """Return the dead children that a process hasn't waited for."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in children if status_of(int(child))["State"].startswith("Z")]


@pytest.mark.slow
def test_a_hung_backend_serves_again_without_the_kubelet(
    pod: Pod, record_property: Callable[[str, object], None]
) -> None:
    address, restarts = pod.sandbox.address, pod["triton"].restarts
    silence = next(float(word.partition("=")[2]) for word in pod["triton"].spec["args"] if "heartbeat" in word)
    os.kill(part(pod["triton"].pid, STUB), signal.SIGSTOP)
    red = until(lambda: not is_ready(address), silence + SOON)
    again = red + until(lambda: is_ready(address), RECOVERED - red)
    assert answer(address)
    assert pod["triton"].restarts == restarts
    record_property(f"{STUB} stopped", {"red after": round(red, 2), "ready again after": round(again, 2)})


@pytest.mark.slow
def test_a_killed_first_process_is_the_kubelets_to_start_again(
    pod: Pod, record_property: Callable[[str, object], None]
) -> None:
    address, restarts = pod.sandbox.address, pod["triton"].restarts
    pod["triton"].send(signal.SIGKILL)
    until(lambda: not pod.is_ready, SOON)
    again = until(lambda: pod.is_ready, RECOVERED)
    assert answer(address)
    assert pod["triton"].restarts == restarts + 1
    record_property("deploykit serve killed", {"ready again after": round(again, 2)})


@pytest.mark.parametrize("headers", [{}, {"deploykit": "a guess"}], ids=["no key", "a wrong key"])
@pytest.mark.parametrize(
    "call",
    [
        "POST repository/index",
        f"POST repository/models/{NAME}/load",
        f"POST repository/models/{NAME}/unload",
        "GET systemsharedmemory/status",
        "GET systemsharedmemory/region/a/status",
        "POST systemsharedmemory/region/a/register",
        "POST systemsharedmemory/unregister",
        "GET cudasharedmemory/status",
        "POST cudasharedmemory/region/a/register",
        "POST cudasharedmemory/unregister",
        "GET trace/setting",
        "POST trace/setting",
        f"POST models/{NAME}/trace/setting",
        "GET logging",
        "POST logging",
    ],
)
def test_what_is_for_administrators_is_forbidden_over_http(call: str, headers: dict[str, str], pod: Pod) -> None:
    method, _, path = call.partition(" ")
    url, body = f"http://{pod.sandbox.address}:8000/v2/{path}", b"{}" if method == "POST" else None
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=10)
    caught.value.close()
    assert caught.value.code == 403


@pytest.mark.parametrize("key", [None, "a guess"])
@pytest.mark.parametrize(
    "call",
    [
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
def test_what_is_for_administrators_is_refused_over_grpc(call: str, key: str | None, pod: Pod) -> None:
    metadata = [("triton-grpc-protocol-deploykit", key)] if key else []
    with grpc.insecure_channel(f"{pod.sandbox.address}:{GRPC}") as channel:
        ask = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), call)
        with pytest.raises(grpc.RpcError) as caught:
            ask(getattr(service_pb2, f"{call}Request")(), timeout=10, metadata=metadata)
    # Triton has no status of its own for this; the text is what tells it from a server that is down.
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details().startswith("This protocol is restricted")
