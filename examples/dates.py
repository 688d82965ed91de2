"""Train a Transformer on dates in twenty languages, export it, and have a real Triton read days it never saw.

    python examples/dates.py [--steps 1500] [--output dates]

Everything lands in one folder, and the server is stopped again. The score is of days that training
had in no language.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from dates_data import LANGUAGES, write_dates
from demo import step
from translating import Score, read_pairs, score, served, show, show_some, train_and_export

MODEL = ("--d-model", 128, "--nhead", 4, "--num-layers", 2, "--dim-feedforward", 512, "--norm-first")
"""A million parameters: more of them are slower and no better here."""
TRAINING = (
    "--vocab-size",
    512,
    "--max-context",
    128,
    "--batch-tokens",
    2048,
    "--learning-rate",
    2e-3,
    "--eval-steps",
    250,
)
"""Steps, not seconds: the same model on every machine, in three minutes on two idle cores."""


def main() -> int:
    """Run the example and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=1500, help="steps to train")
    parser.add_argument("--output", type=Path, default=Path("dates"), help="folder for everything the example makes")
    options = parser.parse_args()
    try:
        scores = learn(options.output, options.steps)
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    show(f"Dates → ISO dates, {len(LANGUAGES)} languages, {options.steps} steps of training", scores)
    return 0


def learn(folder: Path, steps: int) -> dict[str, Score]:
    """Go the whole way in `folder`, and return the score of each part of the test set."""
    step(1, "Write dates as people write them, from the CLDR")
    write_dates(folder / "data")
    step(2, f"Train on them for {steps} steps, and export")
    artifact = train_and_export(folder, *MODEL, *TRAINING, "--max-steps", steps)
    step(3, "Serve it from Triton, and ask for the days that were held out")
    pairs = read_pairs(folder / "data" / "test.txt")
    answers = served(artifact, [source for source, _ in pairs])
    show_some(pairs, answers)
    # The test goes through the languages in turn.
    parts = {
        language: score(pairs[place :: len(LANGUAGES)], answers[place :: len(LANGUAGES)])
        for place, language in enumerate(LANGUAGES)
    }
    return {**parts, "all": score(pairs, answers)}


if __name__ == "__main__":
    sys.exit(main())
