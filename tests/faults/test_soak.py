"""Minutes of sixteen callers who come by every way and often leave early: each text is what a caller alone gets, and
nothing stays behind in any process."""

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from openai import OpenAI
from stacks import Stack

from deploykit.client import Client

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS: Final = float(os.environ.get("DEPLOYKIT_SOAK_SECONDS", "180"))
WARM_UP: Final = 20.0
"""Seconds after which pools, caches and the allocator have what they will keep."""
CALLERS: Final = 16
LEAVERS: Final = 0.1
"""Part of the streams that are left early."""
ALLOWED: Final = {"memory": 30.0, "threads": 4, "files": 16, "shared": 4.0}
"""How much more of each may be there in the end: MB of memory, threads, open files, MB of shared memory in use."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, and what a caller alone is answered."""

    prompt: str
    fields: Mapping[str, Any]


def questions() -> list[Question]:
    source = random.Random(6)
    texts = ("def greet(name):", "Grüße, 你好 👋", "for number in range(10):", "x", "print(" * 40)
    made = []
    for number in range(24):
        fields: dict[str, Any] = {"max_tokens": source.randint(1, 120), "seed": number, "temperature": 1.0}
        if number % 4 == 0:
            fields["stop"] = ["e"]
        if number % 5 == 0:
            fields["temperature"] = 0.0
        made.append(Question(prompt=texts[number % len(texts)], fields=fields))
    return made


Way = Callable[[Question], Iterator[str]]
"""Asks, and yields the pieces of the answer."""


def ways(openai: OpenAI, grpc: Client, http: Client) -> dict[str, Way]:
    def openai_stream(question: Question) -> Iterator[str]:
        asked = dict(question.fields)
        with openai.completions.create(model="fast", prompt=question.prompt, stream=True, **asked) as stream:
            for event in stream:
                yield event.choices[0].text

    def openai_whole(question: Question) -> Iterator[str]:
        answer: Any = openai.completions.create(model="fast", prompt=question.prompt, **dict(question.fields))
        yield answer.choices[0].text

    def stream_of(client: Client) -> Way:
        def stream(question: Question) -> Iterator[str]:
            with client.generate(question.prompt, stream=True, **dict(question.fields)) as pieces:
                for piece in pieces:
                    yield piece.text

        return stream

    def grpc_whole(question: Question) -> Iterator[str]:
        yield grpc.generate(question.prompt, **dict(question.fields)).text

    return {
        "OpenAI stream": openai_stream,
        "OpenAI whole": openai_whole,
        "gRPC stream": stream_of(grpc),
        "gRPC whole": grpc_whole,
        "HTTP stream": stream_of(http),
    }


class Crowd:
    """Callers who ask at random until the time is over, and compare."""

    def __init__(self, known: Mapping[str, Way], answers: list[tuple[Question, str]]) -> None:
        self._ways, self._answers = known, answers
        self._lock = threading.Lock()
        self.counts: dict[str, int] = {}
        self.left = 0

    def ask(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(CALLERS) as threads:
            for done in [threads.submit(self._call, number, end) for number in range(CALLERS)]:
                done.result()

    def _call(self, number: int, end: float) -> None:
        source = random.Random(number)
        while time.monotonic() < end:
            name = source.choice(list(self._ways))
            question, expected = source.choice(self._answers)
            leaves = source.randint(1, 20) if source.random() < LEAVERS else None
            text, pieces = "", self._ways[name](question)
            for count, piece in enumerate(pieces, 1):
                text += piece
                if count == leaves:
                    break
            pieces.close()  # type: ignore[attr-defined]  # they are generators
            whole = leaves is None or text == expected
            assert text == expected if whole else expected.startswith(text), (name, question)
            with self._lock:
                self.counts[name] = self.counts.get(name, 0) + 1
                self.left += not whole


def figures(stack: Stack) -> dict[str, dict[str, float]]:
    """Return what each process holds."""
    return {name: held(pid) for name, pid in {**stack.processes(), "serve": os.getpid()}.items()}


def held(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    found = {name: int(value) for name, value in re.findall(r"(\w+):\s+(\d+)", status)}
    return {
        "memory": found["VmRSS"] / 1e3,
        "threads": found["Threads"],
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "shared": found["RssShmem"] / 1e3,
    }


def grown(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what there is too much of."""
    return [
        f"{process}: {kind} from {before[process][kind]:.1f} to {value:.1f}"
        for process, kinds in after.items()
        for kind, value in kinds.items()
        if not value - before[process][kind] <= ALLOWED[kind]
    ]


def test_every_text_is_right_and_nothing_stays(whole: Stack) -> None:
    with ExitStack() as stack:
        openai = stack.enter_context(whole.openai(timeout=120))
        grpc = stack.enter_context(whole.grpc(timeout=120))
        http = stack.enter_context(whole.http(timeout=120))
        known = ways(openai, grpc, http)
        answers = [(question, "".join(known["gRPC whole"](question))) for question in questions()]
        assert len({text for _, text in answers}) > len(answers) / 2
        crowd = Crowd(known, answers)
        crowd.ask(WARM_UP)
        whole.calm()
        before = figures(whole)
        crowd.ask(SECONDS)
        whole.calm()
        time.sleep(2)
        after = figures(whole)
    print(f"\n{sum(crowd.counts.values())} answers, {crowd.left} left early: {crowd.counts}")
    for name in after:
        print(name, {kind: f"{before[name][kind]:.1f} -> {after[name][kind]:.1f}" for kind in after[name]})
    assert crowd.left > 0.02 * sum(crowd.counts.values())
    assert grown(before, after) == []
    assert whole.load() == (0, 0)


def test_what_is_planted_is_found(whole: Stack) -> None:
    """Memory, threads and files that stay would be seen by the same figures."""
    before = figures(whole)
    stay = threading.Event()
    threads = [threading.Thread(target=stay.wait) for _ in range(10)]
    with ExitStack() as stack:
        stack.callback(stay.set)
        memory = bytearray(os.urandom(1)) * 50_000_000
        for thread in threads:
            thread.start()
        for _ in range(20):
            stack.enter_context(Path(__file__).open())
        found = grown(before, figures(whole))
    assert len(memory) == 50_000_000
    for thread in threads:
        thread.join()
    assert [line.split(" from ")[0] for line in found] == ["serve: memory", "serve: threads", "serve: files"]
