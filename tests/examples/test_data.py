"""What the examples train on, and that what they ask is nothing they trained on."""

import datetime as dt
import re
from pathlib import Path

import pytest

FILES = ("train", "val", "test")
FIRST_OF_CHINESE = "\u2e80"
"""Of the characters; no letter of a European alphabet comes after it."""


def lines(folder: Path, name: str) -> list[tuple[str, str]]:
    text = (folder / f"{name}.txt").read_text(encoding="utf-8")
    return [(first, second) for first, second in (line.split("\t") for line in text.splitlines())]


@pytest.fixture(scope="module")
def dates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dates_data import write_dates

    folder = tmp_path_factory.mktemp("dates")
    write_dates(folder, train=5000)
    return folder


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from names_data import write_names

    folder = tmp_path_factory.mktemp("names")
    write_names(folder)
    return folder


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentiment_data import write_sentiment

    folder = tmp_path_factory.mktemp("sentiment")
    write_sentiment(folder)
    return folder


def test_no_day_of_the_test_is_trained_on(dates: Path) -> None:
    days = {name: {day for _, day in lines(dates, name)} for name in FILES}
    assert len(days["test"]) == 2000
    assert days["train"].isdisjoint(days["test"] | days["val"])
    assert days["val"].isdisjoint(days["test"])


def test_a_spelling_means_one_day(dates: Path) -> None:
    meant: dict[str, str] = {}
    for name in FILES:
        for spelled, day in lines(dates, name):
            assert meant.setdefault(spelled, day) == day


def test_dates_are_in_every_language_equally_often(dates: Path) -> None:
    from dates_data import LANGUAGES, spelled

    months = [spelled(dt.date(2001, 5, 6), language, "full") for language in LANGUAGES]
    assert len(set(months)) == len(LANGUAGES) == 20
    assert len(lines(dates, "test")) % len(LANGUAGES) == 0


def test_no_country_of_the_test_stands_in_a_line_of_the_training(names: Path) -> None:
    asked = {second for name in ("val", "test") for _, second in lines(names, name)}
    asked |= {first.split(": ")[1] for name in ("val", "test") for first, _ in lines(names, name)}
    # Chinese has no spaces between words: there the whole counts.
    letters = "|".join(re.escape(word) for word in asked if word[0] < FIRST_OF_CHINESE)
    anywhere = re.compile(rf"\b(?:{letters})\b")
    for first, second in lines(names, "train"):
        source = first.split(": ")[1]
        assert source not in asked
        assert not anywhere.search(source), source
        assert not anywhere.search(second), second


def test_both_directions_are_asked_of_the_same_countries(names: Path) -> None:
    english = {first.removeprefix("de: ") for first, _ in lines(names, "test") if first.startswith("de: ")}
    assert english == {second for first, second in lines(names, "test") if first.startswith("en: ")}
    assert len(english) > 50


def test_no_stem_of_the_test_is_trained_on(sentiment: Path) -> None:
    stems = {name: {word[:5] for _, word in lines(sentiment, name)} for name in FILES}
    assert all(len(words) > 100 for words in stems.values())
    assert stems["train"].isdisjoint(stems["test"] | stems["val"])
    assert {label for label, _ in lines(sentiment, "test")} == {"positive", "negative"}


@pytest.mark.parametrize("maker", ["dates", "names", "sentiment"])
def test_the_same_files_again(maker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import dates_data
    import names_data
    import sentiment_data

    again = {
        "dates": lambda folder: dates_data.write_dates(folder, train=5000),
        "names": names_data.write_names,
        "sentiment": sentiment_data.write_sentiment,
    }
    again[maker](tmp_path)
    for name in FILES:
        assert (tmp_path / f"{name}.txt").read_bytes() == (request.getfixturevalue(maker) / f"{name}.txt").read_bytes()
