"""Train a Transformer on names, export it, and have a real Triton name countries it never saw.

    python examples/names.py [--steps 4000] [--output names] [-- OPTIONS OF deploykit train]

English to German and Chinese to English, in one model: what a source is to become stands before it (`de: Iceland`).
Everything lands in one folder, and the server is stopped again. There is little to learn from, some five thousand
names, and no way to know that the Netherlands are called Niederlande: the score says what can be told from spelling
alone. Beside it stands that of names which are copied as they are. What comes after `--` goes to the training, which by
itself varies nothing: `-- --token-dropout 0.1`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from demo import step
from names_data import write_names
from translating import Pairs, Score, read_pairs, score, served, show, show_some, train_and_export

MODEL = ("--d-model", 128, "--nhead", 4, "--num-layers", 2, "--dim-feedforward", 512, "--norm-first", "--dropout", 0.2)
TRAINING = ("--vocab-size", 512, "--max-context", 128, "--batch-tokens", 512, "--label-smoothing", 0.1)
DIRECTIONS = {"de: ": "English → German", "en: ": "Chinese → English"}


def main() -> int:
    """Run the example and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=4000, help="steps to train")
    parser.add_argument("--output", type=Path, default=Path("names"), help="folder for everything the example makes")
    parser.add_argument("training", nargs="*", help="further options of `deploykit train`")
    options = parser.parse_args()
    try:
        scores = learn(options.output, "--max-steps", options.steps, *options.training)
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    show(f"Countries, {options.steps} steps of training", scores)
    return 0


def learn(folder: Path, *training: object) -> dict[str, Score]:
    """Go the whole way in `folder`, and return the score of each direction."""
    step(1, "Write what the CLDR names in English, German and Chinese")
    write_names(folder / "data")
    step(2, "Train on it, and export")
    artifact = train_and_export(folder, *MODEL, *TRAINING, *training)
    step(3, "Serve it from Triton, and ask for the countries that were held out")
    pairs = read_pairs(folder / "data" / "test.txt")
    answers = served(artifact, [source for source, _ in pairs])
    show_some(pairs, answers, count=20)
    scores = {}
    for prefix, direction in DIRECTIONS.items():
        chosen = [place for place, (source, _) in enumerate(pairs) if source.startswith(prefix)]
        asked = [pairs[place] for place in chosen]
        scores[direction] = score(asked, [answers[place] for place in chosen])
        scores[f"{direction}, copied"] = score(asked, copied(asked, prefix))
    return scores


def copied(pairs: Pairs, prefix: str) -> list[str]:
    """Return the sources as they are: what whoever knows nothing could answer."""
    return [source.removeprefix(prefix) for source, _ in pairs]


if __name__ == "__main__":
    sys.exit(main())
