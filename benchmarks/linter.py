"""What `deploykit deploy --check` finds and leaves alone, and how long it takes.

python benchmarks/linter.py

The mistakes are those of tests/manifest_mistakes.py, one at a time in a correct deployment; told is one that has a
finding at the named field of the named object. They are kept so that none is lost again: of the 380 that were written
before anybody looked at the rules, 334 are told so, 25 at another field, and 21 not at all. Correct are the four
deployments, and `k8s/` in all of its overlays.
"""

import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from results import keep

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from deployments import FACTS, build, write
from manifest_examples import findings
from manifest_mistakes import BASES, MISTAKES

from deploykit.deploy.check import check
from deploykit.deploy.check.rules import RULES

ROOT = Path(__file__).parent.parent
RUNS = 5


def mistakes() -> tuple[dict[str, int], list[str]]:
    """Return how many mistakes were told, by level, and the names of those that weren't; and false alarms."""
    told: Counter[str] = Counter()
    missed, alarms = [], 0
    with tempfile.TemporaryDirectory() as folder:
        bases = {name: build(write(Path(folder) / name, config)) for name, config in BASES.items()}
    alarms = sum(len(findings(objects, facts=FACTS)) for objects in bases.values())
    for mistake in MISTAKES:
        found = findings(mistake.made_in(bases[mistake.base]), facts=FACTS)
        levels = {each.level for each in found if each.object.endswith(mistake.object) and mistake.field in each.field}
        if mistake.level in levels:
            told[mistake.level] += 1
        else:
            missed.append(f"{mistake.base}: {mistake.name}")
    return {"mistakes": len(MISTAKES), **told, "missed": len(missed), "false_alarms": alarms}, missed


def seconds() -> list[float]:
    """Return how long some full checks of `k8s/` take, each building every overlay; it must find nothing."""
    taken = []
    for _ in range(RUNS):
        began = time.perf_counter()
        found = check([ROOT / "k8s"]).findings
        taken.append(time.perf_counter() - began)
        if found:
            sys.exit(f"k8s/: {found[0].line()}")
    return taken


def main() -> None:
    """Count, time, keep."""
    counts, missed = mistakes()
    taken = seconds()
    told = f"{len(RULES)} rules; of {counts['mistakes']} mistakes {counts['missed']} missed"
    print(f"{told}; {counts['false_alarms']} false alarms; a check of k8s/ takes {min(taken):.2f} s")
    for name in missed:
        print(f"missed: {name}")
    keep(
        "linter",
        {
            "rules": len(RULES),
            **counts,
            "check_seconds": [round(one, 2) for one in (min(taken), statistics.median(taken))],
        },
    )


if __name__ == "__main__":
    main()
