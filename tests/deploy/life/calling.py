"""Who calls the pods, and what became of it."""

import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from stacks import command_of, descendants

from deploykit.client import Client, ClientError

KEY: Final = "sesame-open-0123456789"
"""A key that the gateway takes."""
NAME: Final = "writer"
"""The model."""
PROMPT: Final = "def "
TOKENS: Final = 40
"""Of a whole answer: two seconds of the slow models."""
LONG_LOAD: Final = 5
"""Seconds that the model takes which loads slowly."""
GRPC: Final = 8001
OPENAI: Final = 9000
HEALTH: Final = 8003


class Stream(threading.Thread):
    """One answer in pieces, over a connection of its own."""

    def __init__(self, client: Client, tokens: int) -> None:
        super().__init__()
        self._client, self._tokens = client, tokens
        self.first = threading.Event()
        self.text, self.error, self.ended = "", "", 0.0
        self.start()

    def run(self) -> None:
        try:
            with self._client as client:
                for chunk in client.generate(
                    PROMPT, stream=True, max_tokens=self._tokens, ignore_eos=True, timeout=100
                ):
                    self.text += chunk.text
                    self.first.set()
        except ClientError as error:
            self.error = repr(error)
        self.ended = time.monotonic()
        self.first.set()


class Load:
    """Some threads that call in loops; a context manager."""

    def __init__(self, calls: dict[str, Callable[[], str]]) -> None:
        """Prepare a thread for each of `calls`, which return what the model said."""
        self.answers: dict[str, Counter[str]] = {name: Counter() for name in calls}
        self.failures: list[str] = []
        self._stop, self._began = threading.Event(), time.monotonic()
        self._threads = [threading.Thread(target=self._run, args=each, name=each[0]) for each in calls.items()]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        """How many calls have ended well."""
        return sum(answers.total() for answers in self.answers.values())

    def _run(self, name: str, call: Callable[[], str]) -> None:
        while not self._stop.wait(0.02):
            try:
                self.answers[name][call()] += 1
            except (ClientError, IndexError) as error:
                self.failures.append(f"{time.monotonic() - self._began:.2f} s {name}: {error!r}")


def through_gateway(host: str, port: int = OPENAI, **options: Any) -> Client:
    """Return a client that asks the gateway, each time once."""
    return Client(f"http://{host}:{port}", model=NAME, api_key=KEY, **{"tries": 1, **options})


def ask(client: Client) -> str:
    """Return a short answer."""
    return client.generate(PROMPT, max_tokens=3, ignore_eos=True, timeout=30).text


def says(address: str, path: str) -> int | None:
    """Return the status with which a pod answers a probe, or None where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}:{HEALTH}{path}", timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None


def is_ready(address: str) -> bool:
    """Return what a pod itself says."""
    return says(address, "/v2/health/ready") == 200


def part(pid: int, program: str) -> int:
    """Return the one process below another that runs a program."""
    (found,) = (child for child in descendants(pid) if Path(command_of(child)[0]).name == program)
    return found
