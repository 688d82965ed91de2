"""Write names in English beside German, and in Chinese beside English: pairs to train on.

    python examples/names_data.py -o DIR

Writes DIR/train.txt, DIR/val.txt and DIR/test.txt, a pair in each line, its source after the language that it is to
become: `de: Iceland<TAB>Island`, `en: 冰岛<TAB>Iceland`. All are from the Unicode CLDR, which `babel` carries. Training
has languages, currencies, scripts, cities, time zones and most countries; the other two files have countries alone. A
country is held out in both directions, and so is every other line in which its English or its German name stands:
`Island-Zeit` isn't trained on where `Island` is asked.
"""

import argparse
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from babel import Locale
from dates_data import write_pairs

COUNTRIES: Final = "territories"
WORDS: Final = ("territories", "languages", "scripts", "currencies", "variants")
"""Lists of the CLDR that map a code to a name."""
MADE_UP: Final = ("XA", "XB")
ENGLISH, GERMAN, CHINESE, TRADITIONAL = LOCALES = tuple(map(Locale.parse, ("en", "de", "zh", "zh_Hant")))


@dataclass(frozen=True, kw_only=True)
class Name:
    """What one thing is called."""

    kind: str
    code: str
    english: str
    german: str | None
    chinese: tuple[str, ...]
    """In simplified and in traditional characters."""

    @property
    def side(self) -> str:
        """The file that it is for: of twenty countries one is for `val`, four are for `test`."""
        if self.kind != COUNTRIES:
            return "train"
        number = hashlib.sha256(self.code.encode()).digest()[-1] % 20
        return "val" if number == 0 else "test" if number < 5 else "train"

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs in which it is trained on or asked for."""
        if self.german:
            yield f"de: {self.english}", self.german
        for chinese in self.chinese:
            yield f"en: {chinese}", self.english


def names() -> Iterator[Name]:
    """Yield everything that the CLDR names in these languages, but for places made up to test software."""
    for kind in WORDS:
        for code in getattr(ENGLISH, kind):
            if code not in MADE_UP:
                yield named(kind, code, [getattr(one, kind).get(code) for one in LOCALES])
    for zone in TRADITIONAL.time_zones:
        yield named("cities", zone, [city(one, zone) for one in LOCALES])
    for zone in ENGLISH.meta_zones:
        yield named("times", zone, [time(one, zone) for one in LOCALES])


def named(kind: str, code: str, words: list[str | None]) -> Name:
    """Return what is called `words` in `LOCALES`; its Chinese once where both scripts agree."""
    english, german, *chinese = words
    assert english, f"{code}: the CLDR names everything in English"
    return Name(
        kind=kind, code=code, english=english, german=german, chinese=tuple(dict.fromkeys(filter(None, chinese)))
    )


def city(locale: Locale, zone: str) -> str | None:
    """Return what the city of a time zone is called; English and German leave out those that the zone's name tells."""
    name = locale.time_zones.get(zone, {}).get("city")
    if name or locale.language == "zh":
        return str(name) if name else None
    return zone.rsplit("/", maxsplit=1)[-1].replace("_", " ")


def time(locale: Locale, zone: str) -> str | None:
    """Return what the time in a group of zones is called."""
    names = locale.meta_zones.get(zone, {}).get("long", {})
    name = names.get("generic") or names.get("standard")
    return str(name) if name else None


def write_names(folder: Path) -> None:
    """Write the three files to `folder`, which is made where it isn't there."""
    sides: dict[str, list[Name]] = {"train": [], "val": [], "test": []}
    for name in names():
        sides[name.side].append(name)
    asked = [name for side in ("val", "test") for name in sides[side]]
    sides["train"] = without(sides["train"], asked)
    for side, chosen in sides.items():
        write_pairs(folder / f"{side}.txt", list(dict.fromkeys(pair for name in chosen for pair in name.pairs())))


def without(every: list[Name], asked: list[Name]) -> list[Name]:
    """Return the names in which nothing of what is asked stands, in letters as words, in Chinese as the whole."""
    words = "|".join(re.escape(word) for name in asked for word in latin(name))
    found = re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    chinese = {word for name in asked for word in name.chinese}
    return [name for name in every if not any(map(found.search, latin(name))) and chinese.isdisjoint(name.chinese)]


def latin(name: Name) -> list[str]:
    """Return what it is called in letters."""
    return [name.english, *([name.german] if name.german else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write names in English beside German, in Chinese beside English.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    write_names(parser.parse_args().output)


if __name__ == "__main__":
    main()
