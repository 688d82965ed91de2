"""Write dates as people write them in twenty languages, each beside its ISO date: pairs to train on.

    python examples/dates_data.py -o DIR [--pairs 60000]

Writes DIR/train.txt, DIR/val.txt and DIR/test.txt, a pair in each line: `3. April 1987<TAB>1987-04-03`. The spellings
are those of the Unicode CLDR, which `babel` carries. A day is for one of the three files in all its languages and
spellings, so that no answer of the test is seen in training.
"""

import argparse
import datetime as dt
import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from babel.dates import format_date

LANGUAGES: Final = (
    *("ar", "cs", "de", "el", "en", "es", "fi", "fr", "hi", "hu"),
    *("it", "ja", "nl", "pl", "pt", "ru", "sv", "tr", "vi", "zh"),
)
"""In six scripts; day, month and year stand in three orders."""
FORMATS: Final = ("full", "long", "medium")
"""Of the CLDR's four, those that mean one day alone: 4/3/87, which is `short`, is in March or April of some century."""
FIRST: Final = dt.date(1900, 1, 1)
LAST: Final = dt.date(2099, 12, 31)
VAL, TEST = 1000, 2000
"""Pairs in the two small files; in the test a hundred of each language."""


def side(day: dt.date) -> str:
    """Return the file that a day is for: one in twenty is for `val`, one in ten for `test`."""
    number = hashlib.sha256(f"a day of {day.isoformat()}".encode()).digest()[0] % 20
    return {0: "val", 1: "test", 2: "test"}.get(number, "train")


def days(name: str) -> list[dt.date]:
    """Return the days that are for a file."""
    every = (FIRST + dt.timedelta(days=number) for number in range((LAST - FIRST).days + 1))
    return [day for day in every if side(day) == name]


def pairs(name: str, count: int) -> Iterator[tuple[str, str]]:
    """Yield pairs of a file: each day in turn, in a spelling drawn at random, the languages equally often."""
    draw = random.Random(name)
    order = days(name)
    draw.shuffle(order)
    for number in range(count):
        day = order[number % len(order)]
        language = LANGUAGES[number % len(LANGUAGES)]
        yield spelled(day, language, draw.choice(FORMATS)), day.isoformat()


def spelled(day: dt.date, language: str, form: str) -> str:
    """Return a day as the CLDR writes it, with plain spaces."""
    # Some languages have narrow no-break spaces, which say nothing here.
    return " ".join(format_date(day, form, locale=language).split())


def write_dates(folder: Path, *, train: int = 60_000) -> None:
    """Write the three files to `folder`, which is made where it isn't there; the first gets `train` pairs."""
    for name, count in (("train", train), ("val", VAL), ("test", TEST)):
        write_pairs(folder / f"{name}.txt", list(pairs(name, count)))


def write_pairs(file: Path, lines: Sequence[tuple[str, str]]) -> None:
    """Write lines with a tab in them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{first}\t{second}\n" for first, second in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write dates in twenty languages beside their ISO dates.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--pairs", type=int, default=60_000, help="pairs to train on")
    options = parser.parse_args()
    write_dates(options.output, train=options.pairs)


if __name__ == "__main__":
    main()
