"""What `deploykit serve` says about a model."""

import json
from typing import Any

import pytest

from deploykit.cli.examples import tell_examples
from deploykit.cli.serve import open_ports, tell_event, tell_model
from deploykit.serve.events import Event, Events

FACTS = {
    "version": "3",
    "precision": "int8",
    "mode": "deterministic",
    "rows": 16,
    "context": 2048,
    "cache_bytes": 3 * 2**29,
    "threads": 4,
    "quality": {},
}
BEGINNING = "model    writer (version 3): int8, deterministic"
FAST = {"precision": "dynamic-int8", "mode": "throughput"}


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        ({}, [f"{BEGINNING}, 16 rows of up to 2048 tokens, 1.5 GiB of cache, 4 threads"]),
        ({"threads": 1, "rows": 1, "cache_bytes": 1000}, ["... 1 row of up to 2048 tokens, 1000 B of cache, 1 thread"]),
        (FAST, ["...4 threads", "...was not measured on a text that the model knows"]),
        (
            {**FAST, "quality": {"perplexity_loss": 0.0123, "kl": 0.0015, "top1_agreement": 0.98}},
            ["...4 threads", "...: perplexity +1.23% beside fp32, KL 1.5e-03"],
        ),
    ],
)
def test_a_line_for_each_model_and_one_more_for_what_its_mode_costs(
    facts: dict[str, Any], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tell_model("writer", {**FACTS, **facts})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(lines)
    for line, expected in zip(said, lines, strict=True):
        assert line.endswith(expected.removeprefix("...").lstrip()), line
        assert expected.startswith("...") or line == expected


@pytest.mark.parametrize(
    ("event", "line", "told"),
    [
        (
            Event(what="died", reason="Triton has died (signal 9)"),
            "Triton has died (signal 9); it is started again",
            {"event": "died", "reason": "Triton has died (signal 9)", "seconds": None},
        ),
        (
            Event(what="restarted", reason="Triton\x1b has died", seconds=1.04),
            "Triton\ufffd has died; it serves again, 1.0 s later",
            {"event": "restarted", "reason": "Triton\x1b has died", "seconds": 1.0},
        ),
        (Event(what="stopping"), "stopping: open requests may take 30 s; Ctrl-C again ends it at once", None),
    ],
)
def test_a_line_for_each_death_and_restart(
    event: Event, line: str, told: dict[str, Any] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_event(event, exit_timeout=30, as_json=False)
    assert capsys.readouterr() == ("", f"{line}\n")
    tell_event(event, exit_timeout=30, as_json=True)
    said = capsys.readouterr()
    assert said.err == f"{line}\n"
    assert [json.loads(each) for each in said.out.splitlines()] == ([told] if told else [])


def test_events_before_there_is_a_listener_are_heard_and_its_failures_are_not() -> None:
    events, heard = Events(), []
    events.tell(Event(what="died"))

    def listen(event: Event) -> None:
        heard.append(event.what)
        raise BrokenPipeError

    with events.heard_by(listen):
        events.tell(Event(what="restarted"))
    assert heard == ["died", "restarted"]


@pytest.mark.parametrize(
    ("host", "keys", "said"),
    [
        ("127.0.0.1", False, None),
        ("localhost", True, "the keys guard the gateway alone: Triton's ports answer everybody on this machine"),
        ("0.0.0.0", False, "answer whoever reaches 0.0.0.0, without a key: put a firewall"),
        ("::", True, "answer whoever reaches ::, without a key; --api-keys guards the gateway alone"),
    ],
)
def test_says_what_keys_do_not_guard(host: str, keys: bool, said: str | None) -> None:
    line = open_ports(host, keys=keys)
    assert (line is None) == (said is None)
    assert said is None or said in str(line)


@pytest.mark.parametrize("keys", [True, False])
def test_examples_are_of_what_each_model_can(keys: bool, capsys: pytest.CaptureFixture[str]) -> None:
    tell_examples("http://h:1/v1", {"base": False, "chatty": True}, keys=keys)
    base, chatty, python = (part for part in capsys.readouterr().out.split("\n\n") if part.strip())
    assert "/v1/completions" in base
    assert '"prompt": "Hello"' in base
    assert "/v1/chat/completions" in chatty
    assert '"messages"' in chatty
    assert ["Authorization: Bearer YOUR_KEY" in each for each in (base, chatty)] == [keys, keys]
    assert ('api_key="YOUR_KEY"' in python) == keys
    compile(python.replace("\n  ", "\n").strip(), "example", "exec")
