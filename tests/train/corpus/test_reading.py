"""The files of a data folder, and what is said of those that can't be read."""

import re
import unicodedata
from pathlib import Path

import pytest
from data_folders import write
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.errors import TrainError
from deploykit.train.corpus import reading
from deploykit.train.corpus.cleaning import Tally
from deploykit.train.corpus.reading import find, pieces, rows

PAIR = ("text", "target")


def values(file: Path, names: tuple[str, ...] = PAIR, *, spare_tabs: bool = False) -> list[tuple[str, ...]]:
    return [row.values for row in rows(file, names, spare_tabs=spare_tabs)]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"abc\xff\xfe", r"train\.txt line 1: not UTF-8 at byte 3 of the line \(0xff, invalid start byte\).*iconv"),
        ("a\nb\né".encode("latin-1"), r"train\.txt line 3: not UTF-8 at byte 0 of the line \(0xe9"),
        ("ab\n你".encode()[:-1], r"train\.txt line 2: not UTF-8 at byte 0 of the line \(0xe4, unexpected end of data"),
    ],
)
def test_a_line_that_is_not_utf_8_is_named_however_the_file_is_read(tmp_path: Path, data: bytes, match: str) -> None:
    file = write(tmp_path, {"train.txt": data}) / "train.txt"
    with pytest.raises(TrainError, match=match):
        list(pieces(file))
    with pytest.raises(TrainError, match=match):
        list(rows(file, PAIR))


def test_a_bad_byte_far_into_running_text_is_named_by_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIECE", 32)
    file = write(tmp_path, {"train.txt": b"0123456\n" * 50 + b"01\x80\n"}) / "train.txt"
    with pytest.raises(TrainError, match=r"line 51: not UTF-8 at byte 2 of the line"):
        list(pieces(file))


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab é你👋\n", max_size=120), st.booleans())
def test_pieces_are_the_text(tmp_path_factory: pytest.TempPathFactory, text: str, mark: bool) -> None:
    file = tmp_path_factory.getbasetemp() / "pieces.txt"
    file.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE", 16)
        found = list(pieces(file))
    assert "".join(piece for piece, _ in found) == text
    assert all(0 < len(piece.encode()) <= 16 for piece, _ in found)
    assert not found or found[-1][1] == file.stat().st_size


def test_the_folder_and_the_file_are_found_or_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="nowhere: no such folder"):
        find(tmp_path / "nowhere", "train")
    assert find(tmp_path, "train") is None
    write(tmp_path, {"train.csv": "", "test.txt": ""})
    assert find(tmp_path, "train") == tmp_path / "train.csv"
    write(tmp_path, {"train.txt": ""})
    with pytest.raises(TrainError, match=r"holds train\.txt and train\.csv; keep the one"):
        find(tmp_path, "train")


FORMATS = {
    "train.txt": "a b\tc, d\n\ne\tf\n",
    "train.tsv": "id\ttarget\ttext\n1\tc, d\ta b\n2\t\t\n3\tf\te\n",
    "train.csv": 'target,id,text\n"c, d",1,a b\n,,\nf,2,e\n',
    "train.jsonl": '{"text": "a b", "target": "c, d"}\n\n{"target": "f", "text": "e", "more": null}\n',
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_format_gives_the_fields_in_the_order_asked_for(tmp_path: Path, name: str, mark: bytes, ending: str) -> None:
    file = write(tmp_path, {name: mark + FORMATS[name].replace("\n", ending).encode()}) / name
    assert values(file) == [("a b", "c, d"), ("", ""), ("e", "f")]


def test_a_tsv_without_the_names_in_its_first_line_has_no_heading(tmp_path: Path) -> None:
    assert values(write(tmp_path, {"train.tsv": "text\tb\nc\td\n"}) / "train.tsv") == [("text", "b"), ("c", "d")]
    with pytest.raises(TrainError, match=r"train\.tsv line 1: no column 'text' among 'a', 'b'.*--text-field"):
        values(write(tmp_path, {"train.tsv": "a\tb\n"}) / "train.tsv", ("text",))


def test_tabs_too_few_and_too_many(tmp_path: Path) -> None:
    file = write(tmp_path, {"train.txt": "no tab\na\tb\tc\n"}) / "train.txt"
    assert [(row.line, row.values, row.extra) for row in rows(file, PAIR)] == [(1, (), False), (2, ("a", "b"), True)]
    assert values(file, spare_tabs=True) == [(), ("a", "b\tc")]


def test_csv_counts_lines_where_fields_hold_line_ends(tmp_path: Path) -> None:
    file = write(tmp_path, {"train.csv": 'text,target\n"a\nb",c\nd,e\nf\n'}) / "train.csv"
    found = rows(file, PAIR)
    assert [(next(found).line, next(found).line)] == [(2, 4)]
    with pytest.raises(TrainError, match=r"train\.csv line 5: 1 fields are too few for 'text', 'target'"):
        next(found)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("train.csv", 'text,target\n"a,b\n', r"train\.csv line 2: not CSV: unexpected end of data"),
        (
            "train.csv",
            "source,goal\na,b\n",
            r"train\.csv line 1: no column 'text' among 'source', 'goal'; .*--text-field",
        ),
        ("train.jsonl", '{"text": "a", "target": "b"}\n{"text": \n', r"train\.jsonl line 2: not JSON: Expecting value"),
        ("train.jsonl", "[" * 100_000 + "\n", r"train\.jsonl line 1: not JSON: maximum recursion"),
        ("train.csv", "text,target,target\na,b,c\n", r"line 1: 2 columns are named 'target'; name them apart"),
        ("train.csv", "text,target\na," + "b" * 140_000 + "\n", r"line 2: not CSV: field larger.*JSON Lines"),
        ("train.jsonl", '["a", "b"]\n', r"train\.jsonl line 1: '\[\"a\", \"b\"\]' is no JSON object"),
        ("train.jsonl", '\n{"text": "a"}\n', r"train\.jsonl line 2: no field 'target' among 'text'"),
        (
            "train.jsonl",
            '{"text": ["a"], "target": "b"}\n',
            r"train\.jsonl line 1: field 'text' is \[\"a\"\], not text",
        ),
        ("train.jsonl", '{"text": null, "target": "b"}\n', r"line 1: field 'text' is null, not text"),
        ("train.jsonl", '{"text": "\\ud800", "target": "b"}\n', r"line 1: field 'text' holds half a surrogate pair"),
        ("train.jsonl", b'{"text": "\xe9", "target": "b"}\n', r"train\.jsonl line 1: not UTF-8"),
        ("train.tsv", "text\ttarget\nalone\n", r"train\.tsv line 2: 1 fields are too few"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, data: str | bytes, match: str) -> None:
    with pytest.raises(TrainError, match=match):
        values(write(tmp_path, {name: data}) / name)


def test_numbers_in_json_are_labels(tmp_path: Path) -> None:
    file = (
        write(tmp_path, {"train.jsonl": '{"text": "a", "target": 3}\n{"text": "b", "target": true}\n'}) / "train.jsonl"
    )
    assert values(file) == [("a", "3"), ("b", "true")]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_cleaning_leaves_nfc_without_control_characters(text: str) -> None:
    tally = Tally()
    clean = tally.clean(text)
    assert unicodedata.is_normalized("NFC", clean)
    assert not [c for c in clean if unicodedata.category(c) == "Cc" and c not in "\t\n"]
    assert Tally().clean(clean) == clean
    # Nothing else is lost.
    kept = [c for c in re.sub("\r\n?", "\n", text) if unicodedata.category(c) != "Cc" or c in "\t\n"]
    assert clean == unicodedata.normalize("NFC", "".join(kept))
    assert bool(tally.counts().control) == any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in text)


def test_cleaning_keeps_what_joins_emoji_and_puts_accents_together() -> None:
    assert Tally().clean("e\x00\u0301") == "\N{LATIN SMALL LETTER E WITH ACUTE}"
    assert Tally().clean("👩‍👧 e\u0301\r\nx\x00\x1by\rz") == "👩‍👧 \N{LATIN SMALL LETTER E WITH ACUTE}\nxy\nz"
