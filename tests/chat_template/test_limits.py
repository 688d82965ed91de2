"""A template that goes too far is ended; who made it, and who fed it, gains nothing."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploykit.chat_template import ChatTemplate, Limits, worker
from deploykit.errors import ConfigError, EngineError, QueueFullError, RequestError

Compiled = Callable[..., ChatTemplate]

SHORT = Limits(cpu_seconds=0.15, memory=64 * 2**20)
HELLO = [{"role": "user", "content": "Hello"}]
SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ONLY_IF_ASKED = "{% if messages[0].content == 'slow' %}" + SLOW + "{% endif %}fast"
SLOWLY = [{"role": "user", "content": "slow"}]

BOMBS = {
    "loops": SLOW,
    "lipsum": "{{ lipsum(n=messages[0].content | length * 10**6) }}",
    "macro": "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n else '' }}{% endmacro %}{{ f(60) }}",
    "power": "{{ (9 ** (messages[0].content | length * 10**6) | string) | length }}",
    "times": "{{ messages[0].content * 10**9 }}",
    "list": "{{ (messages * 10**9) | length }}",
    "percent": "{{ '%999999999d' % messages | length }}",
    "format": "{{ '{:999999999}'.format(messages | length) }}",
    "center": "{{ messages[0].content | center(10**9) }}",
    "ljust": "{{ messages[0].content.ljust(10**9) | length }}",
    "indent": "{{ messages | tojson(indent=10**9) }}",
    "replace": "{% set s = messages[0].content * 10**5 %}{{ s.replace('l', s) | length }}",
    "join": "{{ (messages * 10**5) | join(messages[0].content * 10**5) | length }}",
    "batch": "{{ messages | batch(10**9, 'x') | list | length }}",
    "doubling": "{% set n = namespace(s='a') %}{% for i in range(64) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ messages[0].content * 10**4 }}{% endfor %}",
    "at compile time": "{{ ('a' * 10**6) | wordwrap(1) | length }}{{ ['a' * 10**6] * 1000 | length }}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_every_bomb_is_ended(compiled: Compiled, bomb: str) -> None:
    began = time.monotonic()
    # It may go off while it is compiled, since constants are folded.
    with pytest.raises(RequestError, match=r"chat template (took more than|fails|can't be)") as caught:
        compiled(BOMBS[bomb], SHORT).render(HELLO)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("bomb", ["loops", "doubling"])
def test_the_next_one_is_rendered_as_if_nothing_had_been(compiled: Compiled, bomb: str) -> None:
    template = compiled("{% if messages[0].content == 'slow' %}" + BOMBS[bomb] + "{% endif %}fast", SHORT)
    with pytest.raises(RequestError, match="took more than"):
        template.render(SLOWLY)
    assert template.render(HELLO) == "fast"


FORBIDDEN = [
    ("{{ messages.__class__.__mro__ }}", "SecurityError"),
    ("{{ messages.append(1) }}", "SecurityError"),
    ("{{ ''.format.__globals__.x }}", "SecurityError|UndefinedError"),
    ("{{ namespace(__class__=1) }}", "SecurityError: a namespace takes no name that begins with an underscore"),
    ("{% set n = namespace() %}{% set n._a = 1 %}", "SecurityError: a namespace"),
    ("{{ dict.mro() }}", "UndefinedError"),
    ("{% include '/etc/passwd' %}", "no loader"),
    ("{% import 'os' as os %}", "no loader"),
    ("{{ range(10**6) }}", "OverflowError"),
    ("line\n{{ 1 / 0 }}", r"ZeroDivisionError: division by zero \(line \d+\)"),
    ("{{ nothing.at_all }}", r"UndefinedError: 'nothing' is undefined \(line \d+\)"),
    ("{{ '\\ud800' }}", "UnicodeEncodeError"),
    ("{{ raise_exception('a\nb' ~ 'c' * 1000) }}", r"refuses these messages: a bc{297}$"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ("{{ 'x' | wordwrap(0) }}", "ValueError: invalid width 0"),
]


def test_what_a_template_must_not_do_is_one_line(compiled: Compiled) -> None:
    cases = [f"{{% if messages[0].content == '{n}' %}}{text}{{% endif %}}" for n, (text, _) in enumerate(FORBIDDEN)]
    template = compiled("\n".join(cases))
    for number, (text, said) in enumerate(FORBIDDEN):
        with pytest.raises(RequestError) as caught:
            template.render([{"role": "user", "content": str(number)}])
        assert re.search(said, str(caught.value)), f"{text}: {caught.value}"
        assert "\n" not in str(caught.value)


def test_requests_set_no_variable_that_is_the_models(compiled: Compiled) -> None:
    template = compiled("{{ bos_token }}{{ messages_ }}")
    assert template.render(HELLO, messages_=1) == "<s>1"
    for name in ("bos_token", "raise_exception", "range", "_x", "self", "messages"):
        untyped: Any = {name: "x"}
        with pytest.raises(RequestError, match=f"variable '{name}' can't be set by a request"):
            template.render(HELLO, **untyped)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "there are no messages"),
        ([{"role": "user", "content": "\ud800"}], "a lone surrogate"),
        ([{"role": "user", "content": b"x"}], "no valid JSON"),
    ],
)
def test_messages_that_can_not_be_sent_are_refused(compiled: Compiled, messages: list[Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        compiled("x").render(messages)


def test_what_goes_in_and_out_has_a_size(compiled: Compiled) -> None:
    template = compiled("{{ messages[0].content * 3 }}", Limits(request=1000, output=2000))
    assert template.render([{"role": "user", "content": "x" * 600}]) == "x" * 1800
    with pytest.raises(RequestError, match="its text has 2100 bytes; at most 2000"):
        template.render([{"role": "user", "content": "x" * 700}])
    with pytest.raises(RequestError, match=r"variables have 1\d\d\d bytes; at most 1000"):
        template.render([{"role": "user", "content": "x" * 1000}])


def test_a_developer_is_the_system_where_the_template_knows_none(compiled: Compiled) -> None:
    messages = [{"role": "developer", "content": "Be brief."}]
    show = "{{ messages[0].role }}"
    assert compiled(show).render(messages) == "system"
    assert compiled(show + "{# developer #}").render(messages) == "developer"
    assert messages[0]["role"] == "developer"


def test_slow_renderings_hold_nobody_up(compiled: Compiled) -> None:
    template = compiled(ONLY_IF_ASKED, Limits(cpu_seconds=1.0, processes=2))
    with ThreadPoolExecutor(4) as threads:
        slow = threads.submit(template.render, SLOWLY)
        time.sleep(0.2)
        began = time.monotonic()
        assert [f.result() for f in [threads.submit(template.render, HELLO) for _ in range(3)]] == ["fast"] * 3
        assert not slow.done() or time.monotonic() - began > 0.8
        with pytest.raises(RequestError, match=r"more than 1 s of processor time"):
            slow.result()


def test_more_than_can_be_rendered_at_once_wait_no_longer_than_the_limit(compiled: Compiled) -> None:
    template = compiled(ONLY_IF_ASKED, Limits(cpu_seconds=30.0, wall_seconds=1.0, processes=1))
    with ThreadPoolExecutor(3) as threads:
        began = time.monotonic()
        failures = [future.exception() for future in [threads.submit(template.render, SLOWLY) for _ in range(3)]]
        assert time.monotonic() - began < 8
    assert all(isinstance(failure, RequestError) for failure in failures)
    assert any("took more than 1 s;" in str(failure) for failure in failures)
    # Another's end may come just in time.
    assert all(isinstance(f, QueueFullError) or "took more than" in str(f) for f in failures)
    assert template.render(HELLO) == "fast"


def test_many_threads_get_each_its_own_text(compiled: Compiled) -> None:
    template = compiled("{{ messages[0].content }}")

    def check(number: int) -> None:
        text = f"{number} " * (number + 1)
        assert template.render([{"role": "user", "content": text}]) == text

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(check, range(200)))


def pids(template: ChatTemplate) -> list[int]:
    return [worker._process.pid for worker in template._crew._idle]


def test_a_process_that_was_killed_is_replaced(compiled: Compiled) -> None:
    template = compiled("fast")
    (pid,) = pids(template)
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while template._crew._idle[0].running:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert template.render(HELLO) == "fast"
    assert pids(template) != [pid]


def test_a_process_that_was_stopped_is_not_waited_for(compiled: Compiled) -> None:
    template = compiled("fast", Limits(wall_seconds=1.0))
    (pid,) = pids(template)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RequestError, match=r"took more than 1 s;"):
        template.render([{"role": "user", "content": "x" * 10**6}])
    assert not Path(f"/proc/{pid}").exists()
    assert template.render(HELLO) == "fast"


def test_the_process_can_reach_nothing(compiled: Compiled) -> None:
    template = compiled("fast")
    (pid,) = pids(template)
    root = Path(f"/proc/{pid}")
    assert {file.name for file in (root / "fd").iterdir()} == {"0", "1", "2"}
    assert b"PATH=" not in (root / "environ").read_bytes()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (root / "limits").read_text().splitlines()}
    assert limits["Max open files"] == ["3", "3"]
    assert 256 * 2**20 < int(limits["Max address space"][1]) < 512 * 2**20
    for name in ("Max processes", "Max file size", "Max core file size"):
        assert limits[name] == ["0", "0"]


def test_closing_ends_the_process(compiled: Compiled) -> None:
    template = compiled("fast")
    (pid,) = pids(template)
    template.close()
    template.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(RequestError, match="is closed"):
        template.render(HELLO)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "rendering"])
def test_it_ends_with_the_process_that_started_it(busy: bool) -> None:
    script = f"""
import sys, threading, time
from deploykit.chat_template import ChatTemplate, Limits, worker
from deploykit.chat_template.sources import Sources
template = ChatTemplate(Sources(templates={{"default": {SLOW!r}}}, specials={{}}), Limits(cpu_seconds=0.8))
worker = template._crew._idle[0]
if {busy}:
    threading.Thread(target=template.render, args=([{{"role": "user"}}],), daemon=True).start()
    time.sleep(0.2)
print(worker._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        process.kill()
    end = time.monotonic() + 15
    while (stat := Path(f"/proc/{pid}/stat")).exists() and ") Z " not in stat.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_nothing_is_left_of_one_that_was_forgotten(compiled: Compiled) -> None:
    from deploykit.chat_template.sources import Sources

    template = ChatTemplate(Sources(templates={"default": "x"}, specials={}))
    (pid,) = pids(template)
    del template
    assert not Path(f"/proc/{pid}").exists()


def test_an_interrupted_rendering_leaves_no_answer_for_the_next(compiled: Compiled) -> None:
    template = compiled(ONLY_IF_ASKED, Limits(cpu_seconds=5))
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        template.render(SLOWLY)
    assert template.render(HELLO) == "fast"


@pytest.mark.parametrize(
    ("program", "said"),
    [("/bin/false", "ends with status 1 at its start"), ("/nowhere/python3", "/nowhere/python3: No such file")],
)
def test_a_python_that_does_not_work_is_said(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    monkeypatch.setattr(worker, "python", lambda: program)
    with pytest.raises(EngineError, match=said):
        compiled("x")


def test_limits_are_above_zero() -> None:
    with pytest.raises(ConfigError, match="memory of a chat template must be above 0, got 0"):
        Limits(memory=0)
    with pytest.raises(ConfigError, match="cpu_seconds"):
        Limits(cpu_seconds=float("nan"))
