"""Rules on a pod's end: time to stop being sent to, time for open streams, and what runs before."""

import re
from collections.abc import Iterator
from typing import Any, Final

from deploykit.deploy.check.amounts import whole
from deploykit.deploy.check.commands import parse
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Container, Manifests, Pods, mapping, sequence
from deploykit.deploy.check.workloads import (
    is_open,
    is_sidecar,
    listeners,
    named_port,
    servers,
    services_of,
    stays,
)
from deploykit.deploy.facts import ModelFacts

GRACE: Final = 30
"""terminationGracePeriodSeconds where none is given."""
_MARGIN: Final = 5
"""Seconds that `deploykit serve` may take beyond its exit timeout (serve.supervisor.DRAINED), and one more."""
_SLEEP: Final = re.compile(r"(?:^|[\s;&/])sleep\s+(\d{1,6})(?:\.\d+)?s?(?=$|[\s;&])")
_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "sleep")
_JOBS: Final = ("Job", "CronJob")
_SUPERVISED: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")


def grace_too_short(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A grace period shorter than the preStop pause and the server's exit timeout together: streams are cut off."""
    for pods in manifests.pods():
        grace = _grace(pods)
        beside = sum(_needs(each) or 0 for each in pods.containers if is_sidecar(each))
        for container, server in servers(pods):
            needs = _needs(container)
            if needs is None or not stays(container):
                continue
            whole_end = beside if is_sidecar(container) else needs + beside
            if grace is None or grace >= whole_end + _MARGIN or (grace == 0 and not whole_end):
                continue
            sum_ = f"preStop {_pause(container) or 0} s + exit timeout {server.exit_timeout:g} s"
            if beside and not is_sidecar(container):
                sum_ += f" + sidecars {beside:g} s"
            cut = (
                "is killed before its open streams have had their time"
                if grace < whole_end
                else "has no second to spare"
            )
            yield pods.resource.find(
                "grace-too-short", f"{pods.path}.terminationGracePeriodSeconds", _given_grace(pods),
                f"container {container.name!r} may take {sum_} = {whole_end:g} s to end, and {cut} after {grace} s",
                f"write {int(whole_end) + 10}", level="error" if grace < whole_end else "warning",
            )  # fmt: skip


def grace_zero(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A grace period of 0: every end is a kill."""
    for pods in manifests.pods():
        given = whole(pods.spec.get("terminationGracePeriodSeconds"))
        if given is None or given > 0:
            continue
        if given == 0 and not any(servers(pods)) and not services_of(manifests, pods):
            # What nobody sends requests to may well be killed at once.
            continue
        why = "the containers are killed at once, with their open requests" if given == 0 else "it can't be negative"
        yield pods.resource.find(
            "grace-zero", f"{pods.path}.terminationGracePeriodSeconds", given, why,
            "write the seconds that its servers need to end",
            level="error" if given < 0 or any(servers(pods)) else "warning",
        )  # fmt: skip


def pause_beyond_grace(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A preStop pause that takes the whole grace period: the process is killed without having been asked to end."""
    for pods in manifests.pods():
        grace = _grace(pods)
        for container in pods.containers:
            pause = _pause(container)
            if pause is None or grace is None or pause < grace:
                continue
            native = mapping(mapping(container.body.get("lifecycle")).get("preStop")).get("sleep") is not None
            refused = "; the API server refuses it" if native and pause > grace else ""
            yield pods.resource.find(
                "pause-beyond-grace", f"{container.path}.lifecycle.preStop", f"{pause} s",
                f"terminationGracePeriodSeconds is {grace}, counted from before the pause: the process gets no time "
                f"of its own{refused}",
                f"raise it to {pause + GRACE} or "
                "so", level="error" if pause > grace or any(servers(pods)) else "warning",
            )  # fmt: skip


def no_pause_before_end(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A model server behind a Service without a preStop pause: requests arrive after it has stopped to listen."""
    for pods in manifests.pods():
        if not services_of(manifests, pods):
            continue
        for container, server in servers(pods):
            if stays(container) and not mapping(container.body.get("lifecycle")).get("preStop"):
                yield pods.resource.find(
                    "no-pause-before-end", f"{container.path}.lifecycle.preStop", None,
                    f"a pod that ends is taken off its Services while it ends, and {server.kind} refuses requests "
                    "from the first moment on: those that still come fail",
                    'add a preStop pause of 5 to 15 s: exec: {command: [sleep, "15"]}', level="warning",
                )  # fmt: skip


def triton_ends_before_gateway(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A gateway that pauses longer before its end than the Triton beside it: it takes requests that Triton refuses."""
    for pods in manifests.pods():
        behind = [each for each, _ in servers(pods, "serve", "tritonserver") if each.kind == "containers"]
        for container, server in servers(pods, "gateway"):
            mine = _pause(container) or 0
            for other in behind if _asks_own_pod(server.triton) else ():
                theirs = _pause(other) or 0
                if theirs < mine:
                    yield pods.resource.find(
                        "triton-ends-before-gateway", f"{other.path}.lifecycle.preStop", f"{theirs} s",
                        f"container {container.name!r} goes on taking requests for {mine} s, and Triton refuses them "
                        f"after {theirs} s",
                        f"let it pause {mine} s, too", level="warning",
                    )  # fmt: skip


def lifecycle_handler(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A lifecycle hook that can't be run."""
    for pods, _, path, hook in _hooks(manifests):
        given = [name for name in _HANDLERS if hook.get(name) is not None]
        words = sequence(mapping(hook.get("exec")).get("command"))
        if given == ["tcpSocket"]:
            why = "kubelets don't know it in hooks: the hook fails"
            yield pods.resource.find("lifecycle-handler", f"{path}.tcpSocket", "", why, "use exec or httpGet")
        elif given == ["exec"] and (not words or (len(words) == 1 and re.search(r"\S\s+\S", str(words[0])))):
            why = (
                "no shell splits it, and there is no program of that name: the hook fails at once"
                if words
                else "it is empty"
            )
            field = f"{path}.exec.command"
            yield pods.resource.find(
                "lifecycle-handler", field, words[0] if words else None, why, "write each word by itself"
            )
        elif given == ["sleep"] and (whole(mapping(hook.get("sleep")).get("seconds")) or 0) < 1:
            why = "it must be at least 1; the API server refuses it"
            field = f"{path}.sleep.seconds"
            yield pods.resource.find("lifecycle-handler", field, mapping(hook["sleep"]).get("seconds"), why, "write 15")


def lifecycle_port(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A lifecycle hook that calls a port which isn't there: it fails."""
    for pods, container, path, hook in _hooks(manifests):
        value = mapping(hook.get("httpGet")).get("port")
        field = f"{path}.httpGet.port"
        if isinstance(value, str) and named_port(container, value) is None:
            why = f"container {container.name!r} declares no port of that name: the hook fails"
            yield pods.resource.find("lifecycle-port", field, value, why, "name one of its ports")
        elif (number := whole(value)) and any(servers(pods)) and not is_open(pods) and not listeners(pods, number):
            why = "nothing in the pod listens there: the hook fails"
            yield pods.resource.find("lifecycle-port", field, value, why, "write a port of its servers")


def lifecycle_on_init_container(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A lifecycle hook of an init container that ends by itself: the API server refuses it."""
    for pods in manifests.pods():
        for container in pods.containers:
            if container.body.get("lifecycle") and not stays(container):
                why = "an init container may have none unless its restartPolicy is Always; the API server refuses it"
                yield pods.resource.find(
                    "lifecycle-on-init-container", f"{container.path}.lifecycle", "", why, "take it out"
                )


def restart_policy(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A restartPolicy that doesn't go with the kind: the API server refuses it."""
    for pods in manifests.pods():
        given = pods.spec.get("restartPolicy", "Always")
        field = f"{pods.path}.restartPolicy"
        kind = pods.resource.kind
        if kind in _SUPERVISED and given != "Always":
            why = f"the pods of a {kind} must always be restarted; the API server refuses it"
            yield pods.resource.find("restart-policy", field, given, why, "write Always, or take it out")
        if kind in _JOBS and given not in ("OnFailure", "Never"):
            why = f"the pods of a {kind} are to end; the API server refuses Always, the default"
            yield pods.resource.find(
                "restart-policy", field, pods.spec.get("restartPolicy"), why, "write OnFailure or Never"
            )


def deadline_on_server(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A deadline for pods that are to run for ever: the API server refuses it."""
    for pods in manifests.pods():
        deadline = pods.spec.get("activeDeadlineSeconds")
        if deadline is not None and pods.resource.kind in _SUPERVISED:
            why = f"pods of a {pods.resource.kind} may have none; the API server refuses it"
            yield pods.resource.find(
                "deadline-on-server", f"{pods.path}.activeDeadlineSeconds", deadline, why, "take it out"
            )


def command_in_one_word(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A command whose program and arguments are one word: there is no program of that name."""
    for pods in manifests.pods():
        for container in pods.containers:
            program = next(iter(sequence(container.body.get("command"))), None)
            if isinstance(program, str) and re.fullmatch(r"\S+(\s+\S+)+", program.strip()):
                why = "no shell splits it, and there is no program of that name: the container doesn't start"
                field = f"{container.path}.command[0]"
                yield pods.resource.find("command-in-one-word", field, program, why, "write each word by itself")


def server_in_job(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A server in a Job: the Job never ends."""
    for pods in manifests.pods():
        for container, server in servers(pods) if pods.resource.kind in _JOBS else ():
            if container.kind == "containers":
                why = f"{server.kind} serves until it is ended, so the Job never completes"
                yield pods.resource.find(
                    "server-in-job", container.path, container.name, why, "use a Deployment", level="warning"
                )


def server_as_init_container(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A server in an init container: the containers after it never start."""
    for pods in manifests.pods():
        for container, server in servers(pods):
            if container.kind == "initContainers" and not is_sidecar(container):
                why = f"{server.kind} serves until it is ended, and the containers after it wait for its end"
                remedy = "move it to containers, or write restartPolicy: Always"
                yield pods.resource.find("server-as-init-container", container.path, container.name, why, remedy)


def _given_grace(pods: Pods) -> object:
    return pods.spec.get("terminationGracePeriodSeconds", f"{GRACE} (the default)")


def _grace(pods: Pods) -> int | None:
    return whole(pods.spec.get("terminationGracePeriodSeconds", GRACE))


def _needs(container: Container) -> float | None:
    """Return the seconds that a container may take to end; None where nothing says so."""
    server = parse(container)
    if server is None or server.exit_timeout is None:
        return None
    return (_pause(container) or 0) + server.exit_timeout


def _pause(container: Container) -> int | None:
    """Return the seconds that a preStop hook sleeps; None where it doesn't, or can't be read."""
    hook = mapping(mapping(container.body.get("lifecycle")).get("preStop"))
    if (seconds := whole(mapping(hook.get("sleep")).get("seconds"))) is not None:
        return seconds
    line = " ".join(str(word) for word in sequence(mapping(hook.get("exec")).get("command")))
    found = [int(seconds) for seconds in _SLEEP.findall(line)]
    return sum(found) if found else None


def _hooks(manifests: Manifests) -> Iterator[tuple[Pods, Container, str, dict[str, Any]]]:
    for pods in manifests.pods():
        for container in pods.containers:
            for name in ("postStart", "preStop"):
                hook = mapping(container.body.get("lifecycle")).get(name)
                if isinstance(hook, dict):
                    yield pods, container, f"{container.path}.lifecycle.{name}", hook


def _asks_own_pod(triton: str | None) -> bool:
    return triton is not None and triton.rpartition("/")[2].rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")


RULES: Final = (
    grace_too_short, grace_zero, pause_beyond_grace, no_pause_before_end, triton_ends_before_gateway,
    lifecycle_handler, lifecycle_port, lifecycle_on_init_container, restart_policy, deadline_on_server,
    command_in_one_word, server_in_job, server_as_init_container,
)  # fmt: skip
