"""Processes that take turns: each holds one model in one runtime, and is stopped (SIGSTOP) while another works."""

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from peers import environment
from workloads import Work

DRIVERS = Path(__file__).parent / "drivers"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A runtime with a model, and how it is driven."""

    name: str
    driver: str
    """File in drivers/; each says how its runtime is driven."""
    model: Path
    python: str | None = None
    """Environment of `peers.py`; ours where None."""
    options: dict[str, Any] = field(default_factory=dict)

    def command(self) -> list[str]:
        """Return the command that starts it."""
        python = environment(self.python) / "python" if self.python else Path(sys.executable)
        return [str(python), str(DRIVERS / f"{self.driver}.py"), str(self.model), json.dumps(self.options)]


class Contender:
    """One process that answers orders; a context manager. It runs only while it is asked."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        # No settings of threads from outside: each runtime gets two by its own option.
        surroundings = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
        self._process = subprocess.Popen(
            setup.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings
        )
        started = self._answer()
        self.versions: dict[str, str] = started["versions"]
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Let it run, return its answer, and stop it again."""
        assert self._process.stdin
        self._process.send_signal(signal.SIGCONT)
        print(json.dumps({"do": do, **order}), file=self._process.stdin, flush=True)
        found = self._answer()
        self._process.send_signal(signal.SIGSTOP)
        return found

    def rate(self, prompts: Sequence[Any], streams: int, new: int, sampling: dict[str, Any] | None = None) -> float:
        """Return tokens a second over all prompts: those generated, or those read where only one is generated."""
        found = self.ask("streams", prompts=prompts, streams=streams, new=new, sampling=sampling)
        lengths = {len(tokens) for tokens in found["outputs"]}
        assert lengths == {new}, f"{self.setup.name} generated {lengths} tokens a request, not {new}"
        tokens = sum(map(len, prompts)) if new == 1 else new * len(prompts)
        return float(tokens / found["seconds"])

    def outputs(self, prompts: Sequence[Any], streams: int, new: int) -> list[list[int]]:
        """Return the tokens of every prompt's answer, chosen greedily."""
        return list(self.ask("streams", prompts=prompts, streams=streams, new=new)["outputs"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.setup.name} ended with status {self._process.wait()}; it says why above")
        return dict(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


Rates = dict[str, dict[str, list[float]]]
"""work → contender → tokens a second in each round"""


def start(setups: Iterable[Setup], stack: ExitStack) -> list[Contender]:
    """Return every setup's process, loaded and stopped, until the stack closes."""
    return [stack.enter_context(Contender(setup)) for setup in setups]


def alternate(
    setups: Sequence[Setup],
    works: Sequence[Work],
    rounds: int,
    *,
    fits: Callable[[Setup, Work], bool] | None = None,
    beside: Mapping[str, Callable[[], float]] | None = None,
) -> dict[str, Any]:
    """Return every contender's rates at every work that fits it, all in turn in every round, and their versions.

    Args:
        setups: who takes turns.
        works: at what.
        rounds: how often.
        fits: whether a contender does a work; each does where None.
        beside: what else is measured once a round, by name.
    """
    rates: Rates = {}
    with ExitStack() as stack:
        contenders = start(setups, stack)
        for contender in contenders:
            contender.rate(works[1].prompts[:8], 8, 4)  # caches are made, pages are read
        for number in range(rounds):
            for name, measure in (beside or {}).items():
                rates.setdefault(name, {}).setdefault(name, []).append(measure())
            for work in works:
                turn = [contender for contender in contenders if fits is None or fits(contender.setup, work)]
                first = number % len(turn)  # nobody always goes first
                for contender in turn[first:] + turn[:first]:
                    rate = contender.rate(work.prompts, work.streams, work.new, work.sampling)
                    rates.setdefault(work.name, {}).setdefault(contender.setup.name, []).append(rate)
                    print(f"round {number + 1}: {work.name}, {contender.setup.name}: {rate:.1f}", flush=True)
        versions = {contender.setup.name: contender.versions for contender in contenders}
    for name, row in rates.items():
        show(name, row)
    return {"rates": rates, "versions": versions}


def show(title: str, row: Mapping[str, Sequence[float]]) -> None:
    """Print each one's median, lowest and highest."""
    for name, found in row.items():
        figures = f"{statistics.median(found):10.4g}  ({min(found):.4g}–{max(found):.4g})"
        print(f"{title:<24} {name:<24} {figures}", flush=True)
