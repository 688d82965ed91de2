"""Proof that `pip install deploykit` gives a client, small and quick to load, and nothing that only serving needs.

python benchmarks/client_only.py
"""

import json
import subprocess
from pathlib import Path

from peers import environment
from results import keep

HEAVY = {
    "torch",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tokenizers",
    "numpy",
    "tritonclient",
}
MISSING = 7
"""Exit status that says which extra to install."""
LIMIT = 60.0
"""Megabytes that the package and all it needs may take."""
ROUNDS = 10
OURS = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
"""What every environment has before anything is installed."""

WAYS = {
    "python alone": "pass",
    "import deploykit.client": "import deploykit.client",
    "and a client for gRPC": "from deploykit.client import Client; Client('127.0.0.1:9').close()",
    "and a client for HTTP": "from deploykit.client import Client; Client('http://127.0.0.1:9').close()",
}


def main() -> None:
    folder = environment("client")
    listing = subprocess.run([folder / "pip", "list", "--format", "json"], capture_output=True, text=True, check=True)
    packages = {package["name"].lower() for package in json.loads(listing.stdout)}
    assert not packages & HEAVY, packages & HEAVY
    for verb in (["generate", "nowhere", "hi"], ["quantize", "nowhere", "-o", "out"]):
        status = subprocess.run([folder / "deploykit", *verb], capture_output=True, check=False).returncode
        assert status == MISSING, (verb, status)
    sizes = megabytes(next((folder.parent / "lib").glob("python*/site-packages")))
    total = round(sum(sizes.values()), 1)
    assert total <= LIMIT, sizes
    seconds = loading(folder / "python")
    print(f"{len(packages)} packages, {total} MB, none of {', '.join(sorted(HEAVY))}")
    for name, value in seconds.items():
        print(f"{value * 1e3:7.0f} ms  {name}")
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:6])
    keep(
        "client_only",
        {"packages": sorted(packages), "megabytes": total, "largest": largest, "seconds_to_load": seconds},
    )


def megabytes(packages: Path) -> dict[str, float]:
    """What each installed package takes, compiled files included, in megabytes of 10^6 bytes."""
    sizes = {
        entry.name: sum(file.stat().st_size for file in (entry, *entry.rglob("*")) if file.is_file())
        for entry in packages.iterdir()
        if not entry.name.startswith(OURS)
    }
    return {name: round(size / 1e6, 2) for name, size in sizes.items()}


def loading(python: Path) -> dict[str, float]:
    """Processor seconds of each way to begin, the least of several rounds in turns."""
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    measure = "import resource, sys; exec(sys.argv[1]); print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))"
    for _ in range(ROUNDS):
        for name, code in WAYS.items():
            done = subprocess.run([python, "-c", measure, code], capture_output=True, text=True, check=True)
            found[name].append(float(done.stdout))
    return {name: round(min(values), 4) for name, values in found.items()}


if __name__ == "__main__":
    main()
