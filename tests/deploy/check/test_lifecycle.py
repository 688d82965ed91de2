import pytest
from manifest_examples import GONE, Case, correct, deployment, findings, named

from deploykit.deploy.check.rules import lifecycle

JOB = [
    named("Job", api="batch/v1", spec={"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a"}]}}})
]

CASES = [
    Case(
        rule=lifecycle.command_in_one_word,
        bad={"triton.command": ["deploykit serve /models"]},
        field="command[0]",
        good=[{"triton.command": ["sh", "-c", "deploykit serve /models"]}],
    ),
    Case(
        rule=lifecycle.grace_too_short,
        bad={"pod.terminationGracePeriodSeconds": 30},
        good=[{"pod.terminationGracePeriodSeconds": 50}, {"triton.args[9]": "--exit-timeout=20"}],
    ),
    Case(rule=lifecycle.grace_too_short, bad={"pod.terminationGracePeriodSeconds": GONE}),
    Case(rule=lifecycle.grace_too_short, bad={"pod.terminationGracePeriodSeconds": 46}, level="warning"),
    Case(
        rule=lifecycle.grace_too_short,
        bad={"triton.lifecycle.preStop": {"sleep": {"seconds": 40}}},
        field="terminationGracePeriodSeconds",
    ),
    Case(
        rule=lifecycle.grace_too_short,
        bad={"triton.lifecycle.preStop.exec.command": ["sh", "-c", "touch /tmp/ending; sleep 40"]},
        field="terminationGracePeriodSeconds",
    ),
    Case(
        rule=lifecycle.grace_too_short,
        bad={
            "triton.command": ["tritonserver"],
            "triton.args": ["--model-repository=/models", "--exit-timeout-secs=60"],
        },
        field="terminationGracePeriodSeconds",
    ),
    Case(
        rule=lifecycle.grace_too_short,
        bad={"gateway.args[5]": "--exit-timeout=60"},
        field="terminationGracePeriodSeconds",
    ),
    Case(rule=lifecycle.grace_zero, bad={"pod.terminationGracePeriodSeconds": 0}),
    Case(
        rule=lifecycle.grace_zero,
        bad={"pod.terminationGracePeriodSeconds": 0, "triton.command": ["a"], "gateway.command": ["b"]},
        field="terminationGracePeriodSeconds",
        level="warning",
    ),
    Case(
        rule=lifecycle.pause_beyond_grace,
        bad={"triton.lifecycle.preStop.exec.command": ["sleep", "60"]},
        field="lifecycle.preStop",
    ),
    Case(
        rule=lifecycle.no_pause_before_end,
        bad={"triton.lifecycle": GONE},
        field="lifecycle.preStop",
        level="warning",
    ),
    Case(
        rule=lifecycle.triton_ends_before_gateway,
        bad={"triton.lifecycle": GONE},
        field="lifecycle.preStop",
        level="warning",
        good=[{"triton.lifecycle": GONE, "gateway.args[2]": "--triton=writer:8001"}],
    ),
    Case(rule=lifecycle.lifecycle_handler, bad={"triton.lifecycle.preStop.exec.command": ["sleep 15"]}),
    Case(
        rule=lifecycle.lifecycle_handler,
        bad={"triton.lifecycle.preStop": {"tcpSocket": {"port": 1}}},
        field="tcpSocket",
    ),
    Case(
        rule=lifecycle.lifecycle_handler, bad={"triton.lifecycle.preStop": {"sleep": {"seconds": 0}}}, field="seconds"
    ),
    Case(
        rule=lifecycle.lifecycle_port,
        bad={"triton.lifecycle.preStop": {"httpGet": {"port": "admin", "path": "/"}}},
        field="httpGet.port",
        good=[{"triton.lifecycle.preStop": {"httpGet": {"port": "http", "path": "/"}}}],
    ),
    Case(
        rule=lifecycle.lifecycle_port,
        bad={"triton.lifecycle.preStop": {"httpGet": {"port": 8080, "path": "/"}}},
        field="httpGet.port",
    ),
    Case(
        rule=lifecycle.lifecycle_on_init_container,
        bad={"pod.initContainers": [{"name": "a", "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}]},
        field="lifecycle",
    ),
    Case(rule=lifecycle.restart_policy, bad={"pod.restartPolicy": "OnFailure"}, good=[{"pod.restartPolicy": "Always"}]),
    Case(rule=lifecycle.restart_policy, bad={"Job.spec.template.spec.restartPolicy": GONE}, objects=JOB),
    Case(rule=lifecycle.deadline_on_server, bad={"pod.activeDeadlineSeconds": 3600}),
    Case(
        rule=lifecycle.server_in_job,
        bad={"Job.spec.template.spec.containers[0].command": ["deploykit", "serve", "/models"]},
        field="containers[0]",
        level="warning",
        objects=JOB,
    ),
    Case(
        rule=lifecycle.server_as_init_container,
        bad={"pod.initContainers": [{"name": "early", "command": ["deploykit", "serve", "/models"]}]},
        field="initContainers[0]",
        good=[
            {"pod.initContainers": [{"name": "fetch", "command": ["deploykit", "pull", "s3://a/b", "-o", "/models"]}]}
        ],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=lifecycle.RULES) == []


def test_adds_a_sidecars_end_to_that_of_the_containers_before_it() -> None:
    objects = [deployment()]
    spec = objects[0]["spec"]["template"]["spec"]
    sidecar = {**spec["containers"].pop(0), "restartPolicy": "Always"}
    spec["initContainers"] = [sidecar]

    [found] = findings(objects, rules=[lifecycle.grace_too_short])

    assert "sidecars 45 s = 90 s" in found.why
    assert found.level == "error"
