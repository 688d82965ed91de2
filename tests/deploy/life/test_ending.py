"""How a pod ends on a real Triton: the manifest's preStop, SIGTERM, its grace period, and all that callers are owed."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from deploy.life.calling import GRPC, TOKENS, Stream, says, through_gateway
from deploy.life.kubelet import Pod
from deploy.life.service import become_ready
from stacks import until

from deploykit.client import Client

pytestmark = pytest.mark.triton

STREAMS = 32
"""Twice the rows: half of them wait in the queue when the end comes."""
MANY = 8
"""Streams through the gateway beside them."""
TERMINATED = 128 + signal.SIGTERM


@pytest.mark.slow
def test_open_streams_end_with_their_last_token(
    make_pod: Callable[..., Pod],
    manifest: Callable[..., dict[str, Any]],
    answers: dict[str, str],
    record_property: Callable[[str, object], None],
) -> None:
    deployment = manifest(pre_stop=1, gateway=True)
    with make_pod(deployment) as pod:
        become_ready(pod)
        address = pod.sandbox.address
        streams = [Stream(Client(f"{address}:{GRPC}", tries=1), TOKENS) for _ in range(STREAMS - 8)]
        until(lambda: sum(stream.first.is_set() for stream in streams) >= 8, 20)
        streams += [Stream(through_gateway(address), TOKENS) for _ in range(MANY)]
        began = time.monotonic()
        pod.delete()
        # The pod serves on for as long as a cluster takes to hear of its end.
        streams += [Stream(Client(f"{address}:{GRPC}", tries=1), TOKENS) for _ in range(8)]
        ended = pod.wait()
        took = time.monotonic() - began
        for stream in streams:
            stream.join()
    assert [stream.error for stream in streams] == [""] * (STREAMS + MANY), pod.story()
    assert [stream.text for stream in streams] == [answers["first"]] * (STREAMS + MANY)
    assert {name: (each.status, each.killed) for name, each in ended.items()} == {
        "triton": (0, False),
        "gateway": (0, False),
    }
    assert took < pod.grace
    last = max(stream.ended for stream in streams) - began
    figures = {
        "streams over gRPC": STREAMS,
        "streams through the gateway": MANY,
        "tokens": TOKENS * len(streams),
        "streams that lost a token": sum(stream.text != answers["first"] for stream in streams),
        "seconds to the last token": round(last, 2),
        "seconds to the end": round(took, 2),
        "grace period": pod.grace,
        "exit status": ended["triton"].status,
    }
    record_property("end of a pod", figures)


def test_a_pod_that_still_loads_ends_at_once(
    make_pod: Callable[..., Pod],
    manifest: Callable[..., dict[str, Any]],
    record_property: Callable[[str, object], None],
) -> None:
    with make_pod(manifest("slow to load", pre_stop=1), "slow to load") as pod:
        until(lambda: says(pod.sandbox.address, "/v2/health/live") == 200, 20)
        began = time.monotonic()
        pod.delete()
        # Whoever asks again must not keep it from cleaning up.
        again = threading.Timer(1.2, pod["triton"].send, (signal.SIGTERM,))
        again.start()
        ended = pod.wait()["triton"]
        again.cancel()
        assert (ended.status, ended.killed) == (TERMINATED, False), pod.story()
        took = time.monotonic() - began
        assert took < 1 + 3
        record_property("end of a pod that loads", {"seconds to the end": round(took, 2), "of which preStop": 1})
        assert not list((pod.sandbox.folder / "volumes/tmp").glob("deploykit-*"))
