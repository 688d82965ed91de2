"""Show what varying the training examples does where there are few: the same training with one option each.

    python examples/augmenting.py [--pairs 2000] [--steps 800]

Each training is on a part of what dates.py learns from, and is scored by PyTorch on the whole of its test set; once as
it is, and once with typing errors in it, which no training file has.
"""

import argparse
import random
import tempfile
from pathlib import Path
from typing import Final

import torch
from dates_data import write_dates
from demo import console
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from translating import Pairs, read_pairs, score, show

from deploykit.train import TrainConfig, train

OPTIONS: Final = ("", "token_dropout 0.1", "span_mask 0.1", "case_noise 0.2", "char_noise 0.05", "back_pairs 0.5")
SMALL: Final = TrainConfig(task="text2text-generation").but(
    {
        "hidden_size": 64,
        "num_heads": 4,
        "num_layers": 2,
        "intermediate_size": 256,
        "norm_first": True,
        "vocab_size": 400,
        "max_context": 128,
        "batch_tokens": 1024,
        "learning_rate": 3e-3,
        "eval_generate": 1,
    }
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=2000, help="pairs to train on")
    parser.add_argument("--steps", type=int, default=800, help="steps of each training")
    options = parser.parse_args()
    scores = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dates(folder / "data", train=options.pairs)
        pairs = read_pairs(folder / "data" / "test.txt")
        for option in OPTIONS:
            field, _, part = option.partition(" ")
            varied = SMALL.but({field: float(part)} if field else {}).but({"max_steps": options.steps})
            with console.status(option or "nothing varied"):
                train(folder / "data", folder / "checkpoint", varied, overwrite=True)
                scores[option or "nothing varied"] = score(pairs, answers(folder / "checkpoint", pairs))
                with_errors = mistyped(pairs)
                scores[f"{option}, typing errors"] = score(with_errors, answers(folder / "checkpoint", with_errors))
    show(f"Dates, {options.pairs} pairs, {options.steps} steps", scores)


def mistyped(pairs: Pairs) -> Pairs:
    """Return pairs whose sources have two neighbouring letters swapped, if they have any."""
    draw = random.Random(0)
    return [(swapped(source, draw), target) for source, target in pairs]


def swapped(text: str, draw: random.Random) -> str:
    """Return a text with two neighbouring letters swapped: digits stay, or it would be another day."""
    places = [place for place in range(len(text) - 1) if text[place : place + 2].isalpha()]
    if not places:
        return text
    place = draw.choice(places)
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def answers(checkpoint: Path, pairs: Pairs) -> list[str]:
    """Return PyTorch's greedy answers to the sources of pairs."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    written: list[str] = []
    with torch.inference_mode():
        for place in range(0, len(pairs), 250):
            sources = [source for source, _ in pairs[place : place + 250]]
            inputs = tokenizer(sources, padding=True, return_tensors="pt", return_token_type_ids=False)
            out = model.generate(**inputs, max_new_tokens=24, do_sample=False)
            written += tokenizer.batch_decode(out, skip_special_tokens=True)
    return written


if __name__ == "__main__":
    main()
