"""Proof that `pip install deploykit` gives a client, and nothing that only exporting or serving needs.

python benchmarks/client_only.py
"""

import json
import subprocess

from peers import environment
from results import keep

HEAVY = {"torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tokenizers"}
MISSING = 7
"""Exit status that says which extra to install."""


def main() -> None:
    folder = environment("client")
    listing = subprocess.run([folder / "pip", "list", "--format", "json"], capture_output=True, text=True, check=True)
    packages = {package["name"].lower() for package in json.loads(listing.stdout)}
    assert not packages & HEAVY, packages & HEAVY
    subprocess.run(
        [folder / "python", "-c", "from deploykit.client import Client; Client('127.0.0.1:9').close()"], check=True
    )
    for verb in (["generate", "nowhere", "hi"], ["quantize", "nowhere", "-o", "out"]):
        status = subprocess.run([folder / "deploykit", *verb], capture_output=True, check=False).returncode
        assert status == MISSING, (verb, status)
    print(f"{len(packages)} packages, none of {', '.join(sorted(HEAVY))}")
    keep("client_only", {"packages": sorted(packages)})


if __name__ == "__main__":
    main()
