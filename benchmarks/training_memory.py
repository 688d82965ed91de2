"""Peak memory of `deploykit train` on a corpus that is larger than it: 2 GB of the standard library's text.

    python benchmarks/training_memory.py [--gigabytes 2] [--steps 100]

The corpus is made on the fly and deleted after; token files take half as much again while it runs. The peak is that of
the whole process, pages of mapped files included.
"""

import argparse
import random
import sys
import sysconfig
import tempfile
from dataclasses import asdict
from pathlib import Path

from processes import measure
from results import keep, kept


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data, out = Path(name) / "data", Path(name) / "out"
        write_corpus(data, size=round(options.gigabytes * 1e9))
        train = [sys.executable, "-m", "deploykit", "train", "--data", data, "--max-steps", options.steps, "-o"]
        run = measure(f"train on {options.gigabytes:g} GB", train, out, graph="*.safetensors")
    figures = {"corpus_gb": options.gigabytes, "steps": options.steps, **asdict(run)}
    keep("training", {**kept("training"), "memory": figures})


def write_corpus(folder: Path, *, size: int) -> None:
    """Write `size` bytes of train.txt: the standard library's modules, again and again in another order."""
    folder.mkdir()
    modules = [path for path in Path(sysconfig.get_path("stdlib")).rglob("*.py") if "site-packages" not in path.parts]
    texts = [text for path in modules if (text := path.read_bytes().decode("utf-8", errors="ignore").strip())]
    chance = random.Random(0)
    with (folder / "train.txt").open("w", encoding="utf-8") as file:
        while file.tell() < size:
            chance.shuffle(texts)
            for text in texts:
                file.write(f"{text}<eos>\n")
    (folder / "val.txt").write_text("<eos>\n".join(texts[:50]), encoding="utf-8")


if __name__ == "__main__":
    main()
