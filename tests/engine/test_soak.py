"""Many callers at once, all wishes mixed, a cache too small for all, and callers that leave, time out or break.

Every answer is held against the one that its request got alone, and what an engine keeps must be nothing once all have
left: no row, no place on disk, no thread, no file, no memory.
"""

import ctypes
import gc
import os
import random
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Final, cast

import pytest
from engines import Ask, open_engine

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig
from deploykit.engine import Completion, Engine, Event, Request, SamplingParams
from deploykit.engine.engine import _completion
from deploykit.engine.pool import HostMemory
from deploykit.engine.sampling import Choice, choose
from deploykit.engine.shared import SharedDecoder
from deploykit.engine.spill import Spill
from deploykit.engine.text import Detokenizer
from deploykit.errors import QueueFullError

CALLERS: Final = 12
TIGHT: Final = EngineConfig(max_rows=6, max_queue=40, prefill_chunk=8, threads=1)
ROOM: Final = 256
"""Tokens of the cache; six rows want up to 700."""
FLAT: Final = 6_000_000
"""Bytes by which a process may seem larger after the same work once more: allocators keep some."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def asks() -> list[Ask]:
    """Return requests that between them use every parameter, each repeatable."""
    dice = random.Random(5)
    settings: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"n": 3, "seed": 2, "temperature": 1.5},
        {"top_k": 20, "seed": 3, "logprobs": 2},
        {"top_p": 0.7, "seed": 4, "temperature": 1.3},
        {"min_p": 0.02, "seed": 5, "logprobs": 0},
        {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.3},
        {"logit_bias": {"7": 4.0, "9": -100}, "seed": 6, "n": 2},
        {"stop": ["e", "th", "\n"], "seed": 7, "min_tokens": 4},
        {"stop_token_ids": [11, 12, 13, 14, 15, 16], "seed": 8, "min_tokens": 3, "logprobs": 5},
        {"bad_words": ["a", "the"], "top_k": 50, "top_p": 0.9, "min_p": 0.01, "seed": 9, "n": 2},
        {"temperature": 100.0, "seed": 10, "ignore_eos": False},
    ]
    return [
        (
            [dice.randrange(3, 318) for _ in range(dice.randrange(1, 70))],
            SamplingParams.from_mapping({"max_tokens": dice.randrange(8, 50), "ignore_eos": True, **setting}),
        )
        for setting in settings
        for _ in range(3)
    ]


Known = list[tuple[Ask, tuple[Completion, ...]]]
"""Requests, and the answers that each gets alone."""


@dataclass
class Soak:
    """Callers that ask an engine for answers known already, and note each that isn't as it should be."""

    engine: Engine
    known: Known
    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    def run(self, seconds: float, *, seed: int) -> None:
        """Let all callers ask for a while, until the last answer has come."""
        end = time.monotonic() + seconds
        callers = [
            threading.Thread(target=self._call, args=(end, random.Random(seed * CALLERS + number)))
            for number in range(CALLERS)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

    def _call(self, end: float, dice: random.Random) -> None:
        while time.monotonic() < end:
            place = dice.randrange(len(self.known))
            how = dice.choices(["whole", "cancel", "break", "hurry"], [80, 10, 5, 5])[0]
            try:
                self._ask(place, how, dice)
            except QueueFullError:
                self.done["refused"] += 1
                time.sleep(0.01)
            except Exception as error:
                self.wrong.append(f"request {place} ({how}): {error!r}")

    def _ask(self, place: int, how: str, dice: random.Random) -> None:
        """Ask for one answer, do something to it on the way, and compare what came."""
        (prompt, params), alone = self.known[place]
        told: list[list[Event]] = [[] for _ in range(params.n)]
        patience = dice.randrange(0, params.max_tokens)
        over = threading.Event()
        handles: list[Request] = []

        def listen(event: Event) -> None:
            told[event.index].append(event)
            if how == "cancel" and len(told[0]) >= patience:
                for handle in handles:
                    handle.cancel()
            if how == "break" and event.index == 0 and len(told[0]) > patience:
                # Never told again; the others of this request go on.
                raise ConnectionError
            if all(events and events[-1].finish_reason for events in told):
                over.set()

        request = self.engine.submit(
            prompt,
            params,
            on_event=listen,
            timeout=dice.uniform(0.0001, 0.2) if how == "hurry" else None,
            client=dice.choice(["a", "b", "c"]),
            priority=dice.randrange(-1, 2),
        )
        handles.append(request)
        if how == "cancel" and patience < 2:
            request.cancel()
        while how == "break" and not request.finished:
            time.sleep(0.001)
        if how != "break" and not over.wait(60):
            self.wrong.append(f"request {place} ({how}): no end came")
        for index, events in enumerate(told):
            # Where one broke, the last events of the others may be on their way still.
            if events or how != "break":
                self._compare(f"answer {index} of request {place} ({how})", events, alone[index], how)

    def _compare(self, name: str, events: list[Event], alone: Completion, how: str) -> None:
        """Hold an answer against the one that its request gets alone: all of it, or what came until it ended."""
        reason = events[-1].finish_reason
        self.done[reason or "broken"] += 1
        if (how, reason) in {("cancel", "cancelled"), ("hurry", "timeout"), ("break", None)}:
            tokens = tuple(token for event in events for token in event.token_ids)
            logprobs = tuple(logprob for event in events for logprob in event.logprobs)
            right = tokens == alone.token_ids[: len(tokens)] and logprobs == alone.logprobs[: len(tokens)]
            right = right and not (tokens and reason == "timeout")
        else:
            right = reason is not None and _completion(events) == alone
        if not right or any(event.finish_reason for event in events[:-1]):
            self.wrong.append(f"{name}: {events} instead of {alone}")


@pytest.fixture(scope="module")
def known(llama: Artifact) -> Known:
    """Requests, and the answers that each gets alone."""
    with open_engine(llama, replace(TIGHT, max_rows=3)) as engine:
        return [(ask, engine.choices(*ask)) for ask in asks()]


def soak(artifact: Artifact, known: Known, *, seconds: float, rounds: int) -> tuple[Soak, list[str]]:
    """Return how the callers fared, and what is left of them once they are gone."""
    threads, files = set(threading.enumerate()), open_files()
    room = ROOM * artifact.manifest.decoder.cache_bytes_per_token()
    sizes = []
    with open_engine(artifact, replace(TIGHT, cache_memory=room)) as engine:
        run = Soak(engine, known)
        for number in range(rounds):
            run.run(seconds / rounds, seed=number)
            while (stats := engine.stats()).running or stats.waiting:
                time.sleep(0.001)
            sizes.append(resident())
        run.done["preempted"] = stats.preemptions
        left = [name for name, found in kept(engine).items() if found]
    if sizes[-1] - sizes[0] > FLAT:
        left.append("memory")
    del engine, run.engine
    if set(threading.enumerate()) - threads:
        left.append("thread")
    if open_files() > files:
        # A caller that broke off may have left a circle, which the collector finds in its own time.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    if open_files() > files:
        left.append("file")
    return run, left


def kept(engine: Engine) -> dict[str, Any]:
    """Return what an idle engine holds of requests; all of it must be nothing."""
    stats, loop = engine.stats(), engine._loop
    line, decoder = loop._scheduler._line, cast("SharedDecoder", loop._decoder)
    return {
        "answer": loop._answers,
        "row": stats.used_tokens or any(decoder._pool._used),
        "parked": stats.parked,
        "client": line._levels,
        "deadline": line._deadlines,
        "place": decoder._spill._places or decoder._spill.bytes,
    }


def resident() -> int:
    """Return the memory that this process has, in bytes, once all that is free has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def open_files() -> int:
    """Return how many files without a name this process has open: what an engine sets rows aside in.

    Not its sockets, pipes and named files: an engine keeps none, and what earlier tests left running opens and closes
    some meanwhile.
    """
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += entry.readlink().name.endswith(" (deleted)")
    return found


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(4, 3), pytest.param(180, 9, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_a_crowd_of_all_kinds_gets_what_each_gets_alone_and_leaves_nothing(
    seconds: float, rounds: int, llama: Artifact, known: Known
) -> None:
    run, left = soak(llama, known, seconds=seconds, rounds=rounds)
    assert not run.wrong, run.wrong[0]
    assert not left
    # All of it has happened, so that there was something to see.
    assert all(run.done[reason] for reason in ("stop", "length", "cancelled", "broken", "timeout", "preempted")), (
        run.done
    )


def leak_memory(patch: pytest.MonkeyPatch) -> None:
    """Keep something of every answer."""
    whole, leaked = Detokenizer.__init__, list[bytes]()

    def leaking(self: Detokenizer, *given: Any) -> None:
        leaked.append(b"x" * 300_000)
        whole(self, *given)

    patch.setattr(Detokenizer, "__init__", leaking)


def leak_places(patch: pytest.MonkeyPatch) -> None:
    """Forget no row that was set aside, once it is back."""
    patch.setattr(Spill, "drop", lambda *_: None)


def cross_rows(patch: pytest.MonkeyPatch) -> None:
    """Leave a row's keys and values behind when it moves."""
    patch.setattr(HostMemory, "copy", lambda *_: None)


def lose_a_token(patch: pytest.MonkeyPatch) -> None:
    """Give out another token than the one chosen, once in thousands."""
    calls = count()

    def losing(*given: Any) -> list[Choice | None]:
        choices = choose(*given)
        if choices and choices[0] and next(calls) == 40:
            choices[0] = replace(choices[0], token=3 if choices[0].token != 3 else 4)
        return choices

    patch.setattr("deploykit.engine.loop.choose", losing)


@pytest.mark.parametrize(
    ("plant", "found"), [(leak_memory, "memory"), (leak_places, "place"), (cross_rows, ""), (lose_a_token, "")]
)
def test_finds_what_was_planted(
    plant: Callable[[pytest.MonkeyPatch], None],
    found: str,
    llama: Artifact,
    known: Known,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    run, left = soak(llama, known, seconds=1.2, rounds=2)
    assert bool(run.wrong) == (not found)
    assert left == ([found] if found else [])
