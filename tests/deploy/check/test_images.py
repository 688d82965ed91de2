import pytest
from manifest_examples import Case, correct, findings, named

from deploykit.deploy.check.rules import images

DIGEST = f"sha256:{'a' * 64}"
SECRET = named("Secret", data={"keys": "c2stYWJjZGVmZ2g="})
KEYS = "gateway.env[0]"
BEFORE = {"name": "DEPLOYKIT_API_KEYS", "value": "team:sk-abcdefgh"}

CASES = [
    Case(
        rule=images.gateway_open,
        bad={"gateway.env": []},
        field="containers[1].env",
        level="warning",
        good=[{"gateway.env": [], "gateway.args[5]": "--api-keys=/keys/keys"}],
    ),
    Case(
        rule=images.image_name,
        bad={"triton.image": "Registry.example.com/Writer:1"},
        good=[
            {"triton.image": "registry.example.com:5000/team/writer:1.0"},
            {"triton.image": f"registry.example.com/writer:1@{DIGEST}"},
            {"triton.image": "writer_a__b--c.d"},
        ],
    ),
    Case(rule=images.image_name, bad={"triton.image": "writer@sha256:abc"}),
    Case(rule=images.image_name, bad={"triton.image": "writer:"}),
    Case(
        rule=images.image_name,
        bad={"triton.image": "registry.example..com/writer:1"},
        good=[{"triton.image": "Registry-1.example.com/writer:1"}, {"triton.image": "[::1]:5000/writer:1"}],
    ),
    Case(rule=images.image_name, bad={"triton.image": "registry.example-.com/writer:1"}),
    Case(rule=images.image_name, bad={"triton.image": "writer:${TAG}"}),
    Case(rule=images.image_moves, bad={"triton.image": "registry.example.com:5000/writer"}, level="warning"),
    Case(
        rule=images.image_moves,
        bad={"triton.image": "writer:latest", "triton.imagePullPolicy": "IfNotPresent"},
        field="image",
        level="warning",
        good=[{"triton.image": f"writer@{DIGEST}"}],
    ),
    Case(
        rule=images.secret_in_the_open,
        bad={"triton.env[1]": {"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}},
        field="env[1].value",
        level="warning",
        good=[
            {"triton.env[1]": {"name": "API_KEY", "value": "$(OTHER)"}},
            {"triton.env[1]": {"name": "TOKEN", "value": "/var/run/token"}},
            {"triton.env[1]": {"name": "MAX_TOKENS", "value": "64"}},
        ],
    ),
    Case(
        rule=images.gateway_keys,
        bad={KEYS: {"name": "DEPLOYKIT_API_KEYS", "value": ""}},
        field="env[0].value",
        good=[{KEYS: BEFORE}],
    ),
    Case(
        rule=images.gateway_keys,
        bad={KEYS: {"name": "DEPLOYKIT_API_KEYS", "value": "team:sk-abcdefgh,short"}},
        field="env[0].value",
    ),
    Case(rule=images.secret_not_base64, bad={"Secret.data.keys": "sk-abcdefgh!"}, objects=[SECRET]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=images.RULES) == []
