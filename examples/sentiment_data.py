"""Write the words of VADER's lexicon with what they express: labelled texts to train on.

    python examples/sentiment_data.py -o DIR

Writes DIR/train.txt, DIR/val.txt and DIR/test.txt, one `positive<TAB>delighted` in each line. Ten people rated each
word (Hutto and Gilbert 2014; `vaderSentiment` carries the ratings). Words that begin with the same five letters are for
one of the files together, so that the test is not on `delighting` where `delighted` was seen in training.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import vaderSentiment
from dates_data import write_pairs

STEM: Final = 5
"""Letters that forms of one word have in common."""


def rated() -> Iterator[tuple[str, float]]:
    """Yield words, and how good what they express is, from -4 to 4; smileys and abbreviations are left out."""
    lexicon = Path(vaderSentiment.__file__).with_name("vader_lexicon.txt")
    for line in lexicon.read_text(encoding="utf-8").splitlines():
        word, mean, *_ = line.split("\t")
        if word.isascii() and word.isalpha() and word.islower() and len(word) > 2:
            yield word, float(mean)


def side(word: str) -> str:
    """Return the file that a word is for: one stem in twenty is for `val`, three are for `test`."""
    number = hashlib.sha256(word[:STEM].encode()).digest()[-1] % 20
    return {0: "val", 1: "test", 2: "test", 3: "test"}.get(number, "train")


def write_sentiment(folder: Path) -> None:
    """Write the three files to `folder`, which is made where it isn't there."""
    labelled = [("positive" if mean > 0 else "negative", word) for word, mean in rated()]
    for name in ("train", "val", "test"):
        write_pairs(folder / f"{name}.txt", [(label, word) for label, word in labelled if side(word) == name])


def main() -> None:
    parser = argparse.ArgumentParser(description="Write words with what they express.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    write_sentiment(parser.parse_args().output)


if __name__ == "__main__":
    main()
