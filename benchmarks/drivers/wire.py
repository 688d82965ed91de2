"""How a contender's process is asked: a line of JSON on stdin, a line back on stdout, the runtimes' chatter apart.

Standard library and numpy only: it runs inside every peer's environment.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Streams = Callable[[list[Any], int, int, dict[str, Any] | None], list[list[int]]]
"""(prompts, streams, new tokens, sampling) → the tokens of each prompt's answer, `streams` of them at work at once."""
Verb = Callable[[dict[str, Any]], dict[str, Any]]
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's <sys/prctl.h>."""


def answer(versions: Mapping[str, str], verbs: Mapping[str, Verb]) -> None:
    """Answer orders until stdin ends; `do` names the verb, the rest is the verb's."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)  # a stopped process wouldn't see that stdin ends
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints must not be taken for an answer

    def say(reply: dict[str, Any]) -> None:
        print(json.dumps(reply), file=out, flush=True)

    say({"versions": dict(versions), "rss": resident()})
    for line in sys.stdin:
        order = json.loads(line)
        say(verbs[order.pop("do")](order))


def timed(run: Streams) -> Verb:
    """Return the verb `streams`: the tokens of every answer, and the seconds all of them took together."""

    def streams(order: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        tokens = run(order["prompts"], order["streams"], order["new"], order.get("sampling"))
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "outputs": tokens, "rss": resident()}

    return streams


def resident() -> int:
    """Return this process's memory in bytes, freed memory handed back first."""
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
