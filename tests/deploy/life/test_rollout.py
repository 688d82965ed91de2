"""A new version takes over on real Tritons while callers of every habit call in loops."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from deploy.life.calling import GRPC, OPENAI, Load, ask, through_gateway
from deploy.life.kubelet import Pod
from deploy.life.service import DELAY, Balancer, Service, become_ready, roll_out
from stacks import until

from deploykit.client import Client

pytestmark = pytest.mark.triton

PRE_STOP = 3
"""Seconds, of which `Service` takes one to hear of it."""


def callers(service: Service, stack: ExitStack) -> dict[str, Callable[[], str]]:
    """Return callers of all habits, none of which asks twice."""
    kept: dict[str, Client] = {}
    triton = stack.enter_context(Balancer(service, GRPC))
    gateway = stack.enter_context(Balancer(service, OPENAI))
    pinned = stack.enter_context(Client(f"127.0.0.1:{triton.port}", tries=1))
    pinned_http = stack.enter_context(through_gateway("127.0.0.1", gateway.port))

    def anew() -> str:
        with Client(f"{service.pick()}:{GRPC}", tries=1) as client:
            return ask(client)

    def anew_over_http() -> str:
        with through_gateway(service.pick()) as client:
            return ask(client)

    def in_turn() -> str:
        address = service.pick()
        if address not in kept:
            kept[address] = stack.enter_context(Client(f"{address}:{GRPC}", tries=1))
        return ask(kept[address])

    return {
        "a connection for each request": anew,
        "a connection for each request, gateway": anew_over_http,
        "a connection to each pod of the headless Service": in_turn,
        "one connection through the Service": lambda: ask(pinned),
        "one connection through the Service, gateway": lambda: ask(pinned_http),
    }


# One pod takes half a minute; as many as a deployment has, and its own wait until a new one counts, take a whole one.
@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "wait"), [(1, 2), (2, None)])
def test_no_request_fails_while_a_new_version_takes_over(
    replicas: int,
    wait: int | None,
    make_pod: Callable[..., Pod],
    manifest: Callable[..., dict[str, Any]],
    answers: dict[str, str],
    record_property: Callable[[str, object], None],
) -> None:
    before, after = (manifest(model, pre_stop=PRE_STOP, gateway=True) for model in ("first", "second"))
    after["spec"]["minReadySeconds"] = wait or after["spec"]["minReadySeconds"]
    pods: list[Pod] = []
    service = Service(pods)
    with ExitStack() as stack:
        pods += [stack.enter_context(make_pod(before)) for _ in range(replicas)]
        for pod in pods:
            become_ready(pod)
        until(lambda: len(service.endpoints()) == replicas, 5)
        with Load(callers(service, stack)) as load:
            roll_out(pods, lambda: make_pod(after, "second"), after, stack)
            time.sleep(DELAY)
        story = "\n".join(pod.story() for pod in pods)
    assert load.failures == [], story
    assert load.count >= 100 * replicas
    for who, said in load.answers.items():
        # Each of them has met both versions, and nothing else.
        assert all(any(whole.startswith(text) for whole in answers.values()) for text in said), who
        assert {name for name, whole in answers.items() for text in said if whole.startswith(text)} == set(answers), who
    assert {(each.status, each.killed) for pod in pods[:replicas] for each in pod.wait().values()} == {(0, False)}
    record_property(f"new version of {replicas} pod(s)", {"requests": load.count, "failed": len(load.failures)})
