"""What is to be reached beside the peers, and whether a run reached it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Rates = Mapping[str, Mapping[str, Sequence[float]]]
"""work → contender → tokens a second in each round."""
Costs = Mapping[str, Mapping[str, float]]
"""contender → what its precision costs; see `fidelity.py`."""

EQUAL = 1.05
SMALL = 1e-3
"""Divergence counts as equal within 5 %, and below this many nats: perplexity then grows by 0.1 % at most, twice the
standard error that 8192 tokens leave. All weights in 8 bits stay below it; int4 costs twenty times as much."""

ONE_BATCH = ", one batch"
"""Ends the name of genai's other way, which runs the same model."""

INT8 = ("ours int8", "ours int8 block 128")
INT4 = (
    "ours int4",
    "ours int4 block 128 GPTQ",
    "ours int4 all GPTQ",
    "ours int4 all, block 128 GPTQ",
    "ours int4 head, sensitive GPTQ",
)
DYNAMIC = ("ours dynamic-int8",)
ALL = INT8 + INT4 + DYNAMIC
PEERS = ("genai int4", "llama.cpp q4_0", "llama.cpp q8_0")
LLAMACPP = PEERS[1:]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One line of the table."""

    title: str
    work: str
    ours: tuple[str, ...]
    """Our configurations that may stand for us."""
    peers: tuple[str, ...]
    """Each is compared with the fastest of ours that costs no more quality; the lowest ratio counts."""
    at_least: float
    independent: bool = False
    """Whether only those may stand for us whose tokens don't depend on what runs beside."""


GOALS = (
    Goal(title="one stream, int4", work="1 stream", ours=INT4, peers=("genai int4", "llama.cpp q4_0"), at_least=1.1),
    *(
        goal
        for streams in ("8 streams", "16 streams")
        for goal in (
            Goal(
                title=f"{streams}: genai", work=streams, ours=ALL, peers=("genai int4",), at_least=1.5, independent=True
            ),
            Goal(title=f"{streams}: llama.cpp", work=streams, ours=ALL, peers=LLAMACPP, at_least=1.1, independent=True),
            Goal(title=f"{streams}, throughput mode", work=streams, ours=DYNAMIC, peers=PEERS, at_least=1.4),
            Goal(
                title=f"GPT-2, {streams}, throughput mode", work=f"GPT-2, {streams}", ours=DYNAMIC,
                peers=("CTranslate2 int8",), at_least=2.0,
            ),
        )
    ),
    Goal(
        title="8 streams, top-k 40: llama.cpp", work="8 streams, top-k 40", ours=ALL, peers=LLAMACPP, at_least=1.1,
        independent=True,
    ),
    Goal(title="prefill of 512", work="prefill", ours=ALL, peers=PEERS, at_least=1.2, independent=True),
    Goal(title="prefill of 512, throughput mode", work="prefill", ours=DYNAMIC, peers=PEERS, at_least=1.8),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A goal and what was reached."""

    title: str
    goal: str
    reached: float
    low: float
    """Lowest of the rounds."""
    high: float
    met: bool
    how: str
    """What was compared, in absolute figures."""

    def line(self) -> str:
        """Return it as it is printed."""
        word = "met" if self.met else "missed"
        reached = f"{self.reached:6.3f} ({self.low:.2f}–{self.high:.2f})"
        return f"{word:<7} {self.title:<38} {self.goal:<8} {reached}  {self.how}"

    def to_json(self) -> dict[str, Any]:
        """Return it as it is kept."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}


def judge(title: str, rounds: Sequence[float], goal: float, *, how: str, most: bool = False) -> Verdict:
    """Return the verdict on figures that must be at least the goal, or at most."""
    reached = statistics.median(rounds)
    met = reached <= goal if most else reached >= goal
    sign = "≤" if most else "≥"
    return Verdict(
        title=title, goal=f"{sign} {goal:g}", reached=reached, low=min(rounds), high=max(rounds), met=met, how=how
    )


def compare(goal: Goal, rates: Rates, costs: Costs) -> Verdict:
    """Return the verdict on a goal: the peer that leaves us least ahead."""
    found = [_beside(goal, peer, rates[goal.work], costs) for peer in goal.peers]
    return min(found, key=lambda verdict: verdict.reached)


def _beside(goal: Goal, peer: str, rates: Mapping[str, Sequence[float]], costs: Costs) -> Verdict:
    allowed = [
        name
        for name in goal.ours
        if name in costs
        and as_good(name, peer, costs)
        and (not goal.independent or costs[name]["same_beside_others"] == 1)
    ]
    ours = max(allowed or goal.ours, key=lambda name: statistics.median(rates[name]))
    ratios = [mine / theirs for mine, theirs in zip(rates[ours], rates[peer], strict=True)]
    note = "" if allowed else ", though its text is nearer to fp32"
    how = f"{ours} {statistics.median(rates[ours]):.0f} tokens/s, {peer} {statistics.median(rates[peer]):.0f}{note}"
    verdict = judge(goal.title, ratios, goal.at_least, how=how)
    # Faster at a lower quality is no win.
    return verdict if allowed else Verdict(**{**asdict(verdict), "met": False})


def as_good(name: str, peer: str, costs: Costs) -> bool:
    """Return whether the first costs no more than the second; a way of running a model costs what the model does."""
    mine, theirs = (costs[who.removesuffix(ONE_BATCH)]["kl"] for who in (name, peer))
    return mine <= max(theirs * EQUAL, SMALL)
