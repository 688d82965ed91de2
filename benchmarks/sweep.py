"""Every combination of options in every overlay, built, held to the schemas of every version, and linted.

python benchmarks/sweep.py [--workers N]

What must hold is in tests/combinations.py. An overlay is built once by kubectl and its objects are looked at here; each
rule of the linter sees each different set of objects once. `deploykit deploy --check`, which builds them again, reads
the folders of a few combinations that have every pair of options among them.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from results import keep, kept

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from combinations import CUSTOM, VERSIONS, Choice, assert_sound, config_of, every_choice, pairwise
from deployments import FACTS, OVERLAYS, write

from deploykit.deploy.check import check
from deploykit.deploy.check.manifests import Manifests, Resource
from deploykit.deploy.check.reading import qualified
from deploykit.deploy.check.rules import RULES


@dataclass(kw_only=True)
class Seen:
    """What was looked at."""

    builds: int = 0
    objects: set[str] = field(default_factory=set)
    """All different ones, as JSON."""
    findings: list[str] = field(default_factory=list)


def look(choice: Choice) -> Seen:
    """Return what was seen of a combination in all overlays; what doesn't hold raises."""
    config, seen = config_of(choice), Seen()
    with TemporaryDirectory() as folder:
        written = write(Path(folder), config)
        for overlay in OVERLAYS:
            command: list[str | Path] = ["kubectl", "kustomize", written / "overlays" / overlay]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            objects = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
            try:
                assert_sound(objects, config, VERSIONS)
            except Exception as error:
                raise AssertionError(f"{overlay} of {config}: {error}") from error
            seen.builds += 1
            seen.objects |= set(map(json.dumps, objects))
            seen.findings += [f"{overlay} of {config}: {line}" for line in linted(text)]
    return seen


@functools.lru_cache(maxsize=2 * len(OVERLAYS))
def linted(text: str) -> tuple[str, ...]:
    """Return what the linter's rules find in an overlay's objects, which it shares with others at times."""
    objects = yaml.load_all(text, Loader=yaml.CSafeLoader)
    resources = qualified([Resource(body=each, source="built") for each in objects])
    manifests = Manifests(resources=resources, source="built")
    return tuple(finding.line() for rule in RULES for finding in rule(manifests, FACTS))


def check_folders(choices: list[Choice]) -> list[str]:
    """Return what the whole check finds in the folders of some combinations."""
    found: list[str] = []
    for choice in choices:
        with TemporaryDirectory() as folder:
            config = config_of(choice)
            found += [f"{config}: {each.line()}" for each in check([write(Path(folder), config)]).findings]
    return found


def sweep(workers: int) -> dict[str, object]:
    """Return the figures of all combinations."""
    # Always with a product of NVIDIA's, which only adds a selector: the pairs have both.
    choices, began, total = every_choice(gpu_product=["NVIDIA-L4"]), time.monotonic(), Seen()
    with ProcessPoolExecutor(workers) as pool:
        for number, seen in enumerate(pool.map(look, choices), 1):
            total.builds += seen.builds
            total.objects |= seen.objects
            total.findings += seen.findings
            print(f"{number:3d} of {len(choices)}, {time.monotonic() - began:.0f} s", flush=True)
    chosen = list(pairwise(every_choice()))
    total.findings += check_folders(chosen)
    custom = sum(json.loads(text)["kind"] in CUSTOM for text in total.objects)
    if total.findings:
        sys.exit("\n".join(["the linter finds something in what deploykit wrote:", *total.findings]))
    return {
        "combinations": len(choices),
        "overlays of each": len(OVERLAYS),
        "builds": total.builds,
        "different objects": len(total.objects),
        "of them custom resources, held to no schema here": custom,
        "versions of Kubernetes": f"{VERSIONS[0]} to {VERSIONS[-1]}",
        "rules of the linter": len(RULES),
        "combinations checked as folders": len(chosen),
        "findings": len(total.findings),
        "processes": workers,
        "seconds": round(time.monotonic() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at once")
    figures = sweep(parser.parse_args().workers)
    print(json.dumps(figures, indent=2))
    keep("manifests", {**kept("manifests"), "combinations": figures})


if __name__ == "__main__":
    main()
