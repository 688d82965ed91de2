"""A data folder to batches, whole."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from data_folders import label_lines, pair_lines, prepared, sentence, write
from tiny_training import VERSE
from tokenizers import Tokenizer, processors

from deploykit.errors import ConfigError, OutputError, TrainError
from deploykit.train.config import Task
from deploykit.train.parts import IGNORED, Batch
from deploykit.train.prepare import Prepared
from deploykit.train.tokenizer import BACK, BOS, EOS, PAD, UNK, Specials, train_tokenizer

PAIRS: Task = "text2text-generation"
LABELS: Task = "text-classification"
PAIR_FILES = {"train.txt": pair_lines(200), "val.txt": pair_lines(20, first=900)}
LABEL_FILES = {"train.txt": label_lines(60), "val.txt": label_lines(9, first=300)}


def texts(data: Prepared, batches: Iterator[Batch]) -> list[tuple[str, str]]:
    """Sources and targets as they were written; what is behind the real tokens is checked."""
    found = []
    for batch in batches:
        ids, labels = batch.inputs["input_ids"], batch.labels
        mask = batch.inputs.get("attention_mask", torch.ones_like(ids))
        read = batch.inputs["decoder_input_ids"]
        assert (ids[mask == 0] == PAD).all()
        assert read[:, 0].tolist() == [BOS] * batch.rows
        real = labels[:, :-1] != IGNORED
        assert (read[:, 1:][real] == labels[:, :-1][real]).all()
        assert (read[:, 1:][~real] == PAD).all()
        assert batch.tokens == int(mask.sum()) + int((labels != IGNORED).sum())
        assert batch.places == ids.numel() + labels.numel()
        for source, kept, target in zip(ids, mask, labels, strict=True):
            end = target[target != IGNORED].tolist()
            assert (source[kept == 1][-1], end[-1]) == (EOS, EOS)
            decode = data.tokenizer.decode
            found.append((decode(source.tolist(), skip_special_tokens=True), decode(end[:-1])))
    return found


def lines(text: str) -> list[tuple[str, ...]]:
    return [tuple(line.split("\t")) for line in text.splitlines()]


def test_every_pair_is_in_an_epoch_once(tmp_path: Path) -> None:
    data = prepared(write(tmp_path / "data", PAIR_FILES), PAIRS, {"batch_tokens": 200})
    assert len(data.train) == 200
    epochs = [texts(data, data.train.epoch(number)) for number in (0, 1)]
    assert [sorted(epoch) for epoch in epochs] == [sorted(lines(PAIR_FILES["train.txt"]))] * 2
    assert epochs[0] != epochs[1]
    assert sorted(texts(data, data.val.in_order())) == sorted(lines(PAIR_FILES["val.txt"]))
    assert len(data.val) == 20
    assert data.report.train.kept == data.report.train.lines == 200
    assert not data.report.notes()
    assert not data.labels


def test_batches_hold_as_many_positions_as_allowed_and_little_padding(tmp_path: Path) -> None:
    data = prepared(
        write(tmp_path / "data", {**PAIR_FILES, "train.txt": pair_lines(2000)}), PAIRS, {"batch_tokens": 600}
    )
    batches = list(data.train.epoch(0))
    assert max(batch.places for batch in batches) <= 600
    assert sum(batch.tokens for batch in batches) / sum(batch.places for batch in batches) >= 0.95
    assert data.train.steps() == pytest.approx(len(batches), rel=0.05)


def same(first: Iterator[Batch], second: Iterator[Batch]) -> bool:
    pairs = list(zip(first, second, strict=True))
    assert pairs
    return all(
        one.inputs.keys() == other.inputs.keys()
        and all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
        and torch.equal(one.labels, other.labels)
        for one, other in pairs
    )


NOISE = {"char_noise": 0.1, "case_noise": 0.5, "token_dropout": 0.1, "span_mask": 0.1, "back_pairs": 0.3}


@pytest.mark.parametrize("options", [{}, NOISE])
def test_an_epoch_is_the_same_again_and_can_be_entered_anywhere(tmp_path: Path, options: dict[str, float]) -> None:
    folder, given = write(tmp_path / "data", PAIR_FILES), {**options, "batch_tokens": 300, "seed": 3}
    data = prepared(folder, PAIRS, given)
    again = prepared(folder, PAIRS, given, cache=tmp_path / "other")
    assert same(data.train.epoch(1), again.train.epoch(1))
    whole = list(data.train.epoch(1))
    assert len(whole) > 6
    assert same(iter(whole[5:]), data.train.epoch(1, skip=5))
    assert not list(data.train.epoch(1, skip=len(whole)))
    other = prepared(folder, PAIRS, {**given, "seed": 4}, cache=tmp_path / "other")
    assert not torch.equal(next(other.train.epoch(1)).labels, whole[0].labels)


def test_pairs_are_turned_back(tmp_path: Path) -> None:
    data = prepared(write(tmp_path / "data", PAIR_FILES), PAIRS, {"back_pairs": 0.25})
    back = data.tokenizer.token_to_id(BACK)
    assert back == 4
    assert len(data.train) == 250
    turned = Counter[bool]()
    expected = lines(PAIR_FILES["train.txt"])
    for batch in data.train.epoch(0):
        begins = batch.inputs["input_ids"][:, 0] == back
        for pair, back_to in zip(texts(data, iter([batch])), begins.tolist(), strict=True):
            turned[back_to] += 1
            assert (pair[::-1] if back_to else pair) in expected
    assert turned == {True: 50, False: 200}
    assert not any((batch.inputs["input_ids"] == back).any() for batch in data.val.in_order())
    assert len({str(texts(data, data.train.epoch(number))) for number in (0, 1)}) == 2


def test_letters_and_tokens_are_varied_in_training_only(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", PAIR_FILES)
    plain = sorted(texts(prepared(folder, PAIRS), prepared(folder, PAIRS).train.epoch(0)))
    for option in ("char_noise", "case_noise", "token_dropout"):
        data = prepared(folder, PAIRS, {option: 0.5})
        varied = texts(data, data.train.epoch(0))
        assert sorted(target for _, target in varied) == sorted(target for _, target in plain)
        sources = {source for source, _ in plain}
        changed = sum(source not in sources for source, _ in varied) / len(varied)
        # Lower case changes nothing here, and numbers have no case.
        assert (0.1 if option == "case_noise" else 0.4) < changed <= 1
        assert sorted(texts(data, data.val.in_order())) == sorted(lines(PAIR_FILES["val.txt"]))
        assert varied != texts(data, data.train.epoch(1))
        if option == "case_noise":
            assert {source.lower() for source, _ in varied} == {source.lower() for source in sources}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    train = (
        "a\tb\n\n \t \na\t\nno tab\nx\ty\tz\ne\u0301\tf\ng\x00\th\r\n" + "long " * 40 + "\ti\nj\t" + "long " * 40 + "\n"
    )
    options = {"max_source_tokens": 12, "max_target_tokens": 12}
    data = prepared(write(tmp_path / "data", {"train.txt": train, "val.txt": "a\tb\n"}), PAIRS, options)
    assert sorted(texts(data, data.train.in_order())) == [("a", "b"), ("g", "h"), ("x", "y"), ("é", "f")]
    assert dataclasses.asdict(data.report.train) == {
        "lines": 10,
        "kept": 4,
        "empty": 3,
        "without_tab": 1,
        "too_long": 2,
        "extra_fields": 1,
        "composed": 1,
        "control": 1,
    }
    (note,) = data.report.notes()
    assert note.startswith("train: 4 of 10 lines kept, 3 empty, 1 without a tab, 2 too long")


@pytest.mark.parametrize("task", ["text-generation", PAIRS, LABELS, "text-regression"])
@pytest.mark.parametrize(
    ("train", "match"), [(b"", r"train\.txt: holds no text"), (b" \n\t\n", r"train\.txt: ")], ids=["none", "blank"]
)
def test_a_file_without_text_is_named(tmp_path: Path, task: Task, train: bytes, match: str) -> None:
    with pytest.raises(TrainError, match=match):
        prepared(write(tmp_path / "data", {"train.txt": train, "val.txt": "a\tb\n" * 900}), task)
    files: dict[str, str | bytes] = {"train.txt": "1\tone\n2\ttwo\n" * 300, "val.txt": train}
    with pytest.raises(TrainError, match=match.replace("train", "val")):
        prepared(write(tmp_path / "data", files), task, {"sequence_length": 8})


@pytest.mark.parametrize(
    ("task", "files", "options", "match"),
    [
        (PAIRS, {"val.txt": "a\tb\n"}, {}, r"train\.txt: no such file; a data folder holds"),
        (PAIRS, {"train.txt": "a\tb\n"}, {}, r"val\.txt: no such file; .*--val-split"),
        (
            PAIRS,
            {"train.txt": "a\tb\n"},
            {"val_split": 0.1},
            r"too few examples for a --val-split of 0\.1: none is left",
        ),
        (PAIRS, {"train.txt": VERSE, "val.txt": "a\tb\n"}, {}, r"of 3 lines none .*3 without a tab.*source<TAB>target"),
        (PAIRS, {"train.txt": "a\tb\n", "val.txt": "a\n"}, {}, r"val\.txt: of 1 lines none"),
        (
            PAIRS,
            {"train.txt": "a\tb c d e f\n", "val.txt": "a\tb\n"},
            {"max_target_tokens": 2},
            r"1 too long.*--max-target-tokens",
        ),
        (LABELS, {"train.txt": "x\ta\n", "val.txt": "x\ta\n"}, {}, r"every text has the label 'x'"),
        (
            LABELS,
            {"train.txt": "x\ta\ny\tb\n", "val.txt": "x\ta\nz\tc\n"},
            {},
            r"val\.txt line 2: label 'z' is never learnt: train\.txt doesn't have it, only 'x', 'y'",
        ),
        (
            "text-regression",
            {"train.txt": "1.5\ta\nhigh\tb\n", "val.txt": "1\ta\n"},
            {},
            r"train\.txt line 2: label 'high'",
        ),
        (
            "text-regression",
            {"train.txt": "1.5\ta\n", "val.txt": "nan\ta\n"},
            {},
            r"val\.txt line 1: label 'nan' is no",
        ),
        (
            "text-generation",
            {"train.txt": "one line\n", "val.txt": VERSE * 9},
            {},
            r"train\.txt: \d+ tokens, but 4 × 256",
        ),
        (
            "text-generation",
            {"train.txt": VERSE * 300, "val.txt": "one line"},
            {},
            r"val\.txt: \d+ tokens, but 1 × 256 are needed.*--sequence-length",
        ),
    ],
)
def test_data_that_can_not_be_learnt_from_is_named(
    tmp_path: Path, task: Task, files: Mapping[str, str], options: Mapping[str, Any], match: str
) -> None:
    with pytest.raises(TrainError, match=match):
        prepared(write(tmp_path / "data", files), task, options)


@pytest.mark.parametrize(
    ("task", "options", "specials"),
    [
        ("text-generation", {"char_noise": 0.1}, Specials()),
        ("text-generation", {"case_noise": 0.1}, Specials()),
        (LABELS, {"back_pairs": 0.1}, Specials()),
        (PAIRS, {"span_mask": 0.1}, Specials(unk=None)),
    ],
)
def test_augmentation_that_can_not_be_is_refused(
    tmp_path: Path, task: Task, options: dict[str, float], specials: Specials
) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        prepared(write(tmp_path / "data", PAIR_FILES), task, options, specials=specials)


@pytest.mark.parametrize("name", ["tokenizer.new", "train.source.bin", "val.npy", "prepared.new"])
def test_a_full_disk_leaves_nothing_that_would_be_used_again(tmp_path: Path, name: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    folder, tokens = write(tmp_path / "data", LABEL_FILES), tmp_path / "tokens"
    tokens.mkdir()
    # A device that refuses each byte as a full disk does.
    (tokens / name).symlink_to("/dev/full")
    with pytest.raises(OutputError, match="tokens: no space left"):
        prepared(folder, LABELS)
    (tokens / name).unlink()
    assert len(prepared(folder, LABELS).train) == 60


def test_labels_are_classes(tmp_path: Path) -> None:
    data = prepared(write(tmp_path / "data", LABEL_FILES), LABELS, {"batch_size": 8})
    assert data.labels == ("even", "odd")
    seen = Counter[str]()
    for batch in data.train.epoch(0):
        assert set(batch.inputs) <= {"input_ids", "attention_mask"}
        assert batch.labels.dtype == torch.int64
        assert batch.rows <= 8
        ids, mask = batch.inputs["input_ids"], batch.inputs.get("attention_mask")
        assert batch.tokens == (int(mask.sum()) if mask is not None else ids.numel())
        for row, label in zip(ids, batch.labels.tolist(), strict=True):
            text = data.tokenizer.decode(row.tolist())
            assert row[0] == BOS
            assert int(text.split()[0]) % 2 == label
            seen[text] += 1
    assert sorted(seen) == sorted(sentence(number) for number in range(60))
    assert set(seen.values()) == {1}
    assert data.train.steps() == 8


def test_labels_that_are_numbers_keep_their_order_and_given_ones_theirs(tmp_path: Path) -> None:
    text = "".join(f"{n % 12}\t{sentence(n)}\n" for n in range(40))
    folder = write(tmp_path / "data", {"train.txt": text, "val.txt": text})
    assert prepared(folder, LABELS).labels == tuple(str(n) for n in range(12))
    given = [str(n) for n in reversed(range(13))]
    data = prepared(folder, LABELS, labels=given)
    assert data.labels == tuple(given)
    for batch in data.val.in_order():
        for row, label in zip(batch.inputs["input_ids"], batch.labels.tolist(), strict=True):
            assert int(data.tokenizer.decode(row.tolist()).split()[0]) % 12 == int(given[label])
    with pytest.raises(TrainError, match=r"train\.txt line 3: label '2' is none of the checkpoint's \(0, 1\)"):
        prepared(folder, LABELS, labels=["0", "1"])


def test_numbers_are_learnt_as_numbers(tmp_path: Path) -> None:
    text = "".join(f"{n / 4}\t{sentence(n)}\n" for n in range(20))
    data = prepared(write(tmp_path / "data", {"train.txt": text, "val.txt": text}), "text-regression")
    assert data.labels == ()
    for batch in data.train.epoch(0):
        assert batch.labels.dtype == torch.float32
        for row, label in zip(batch.inputs["input_ids"], batch.labels.tolist(), strict=True):
            assert int(data.tokenizer.decode(row.tolist()).split()[0]) / 4 == label


@pytest.mark.parametrize("name", ["txt", "jsonl", "csv"])
def test_documents_end_with_eos_in_every_format(tmp_path: Path, name: str) -> None:
    texts = {
        "txt": "one two\n<eos>three\n<eos>" * 30,
        "jsonl": '{"text": "one two\\n"}\n{"text": "three\\n"}\n{"text": ""}\n' * 30,
        "csv": "text\n" + '"one two\n"\n"three\n"\n' * 30,
    }
    files = {f"train.{name}": texts[name], f"val.{name}": texts[name]}
    data = prepared(write(tmp_path / "data", files), "text-generation", {"sequence_length": 8})
    ids = [token for batch in data.train.in_order() for token in batch.labels.flatten().tolist()]
    text = data.tokenizer.decode(ids, skip_special_tokens=False)
    assert ("one two\n<eos>three\n<eos>" * 30).startswith(text)
    assert UNK not in ids


def test_another_tokenizer_is_used_as_it_is(tmp_path: Path) -> None:
    own = train_tokenizer([pair_lines(50)], 400, task=PAIRS, extra=["</s>", "<s>"])
    end, begin = own.token_to_id("</s>"), own.token_to_id("<s>")
    assert end is not None
    assert begin is not None
    own.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    specials = Specials(bos=None, eos=end, pad=end, unk=UNK, start=end)
    folder = write(tmp_path / "data", PAIR_FILES)
    data = prepared(folder, PAIRS, {"back_pairs": 1.0}, tokenizer=own, specials=specials)
    back = own.get_vocab_size() - 1
    assert own.id_to_token(back) == BACK
    seen = Counter[bool]()
    for batch in data.train.epoch(0):
        ids = batch.inputs["input_ids"]
        assert set(ids[:, 0].tolist()) == set(batch.labels[:, 0].tolist()) == {begin}
        assert (batch.inputs["decoder_input_ids"][:, :2] == torch.tensor([end, begin])).all()
        seen.update((ids[:, 1] == back).tolist())
    assert seen == {True: 200, False: 200}
    running = write(tmp_path / "text", {"train.txt": VERSE * 40, "val.txt": VERSE * 40})
    text = prepared(running, "text-generation", {"sequence_length": 16}, tokenizer=own, specials=specials)
    batch = next(text.train.in_order())
    assert (batch.inputs["input_ids"][:, 1:] == batch.labels[:, :-1]).all()
    assert EOS not in batch.labels
    assert end in torch.cat([batch.labels.flatten() for batch in text.train.in_order()])


@pytest.mark.parametrize("task", [PAIRS, LABELS])
def test_held_out_texts_are_never_learnt(tmp_path: Path, task: Task) -> None:
    text = pair_lines(300) if task == PAIRS else label_lines(300)
    data = prepared(write(tmp_path / "data", {"train.txt": text * 2}), task, {"val_split": 0.2})

    def sources(batches: Iterator[Batch]) -> set[str]:
        return {data.tokenizer.decode(row.tolist()) for batch in batches for row in batch.inputs["input_ids"]}

    train, val = sources(data.train.epoch(0)), sources(data.val.in_order())
    assert len(train) + len(val) == 300
    assert len(data.train) + len(data.val) == 600
    assert len(val) == pytest.approx(60, abs=20)


def test_the_end_of_running_text_is_held_out(tmp_path: Path) -> None:
    text = " ".join(map(str, range(4000)))
    data = prepared(write(tmp_path / "data", {"train.txt": text}), "text-generation", {"val_split": 0.1})
    train = [token for batch in data.train.in_order() for token in batch.labels.flatten().tolist()]
    val = [token for batch in data.val.in_order() for token in batch.labels.flatten().tolist()]
    assert text.startswith(data.tokenizer.decode(train))
    assert data.tokenizer.decode(val) in text[text.index(data.tokenizer.decode(train)[-40:]) :]
    assert len(val) / (len(train) + len(val)) == pytest.approx(0.1, abs=0.05)


def test_token_files_are_used_again_until_anything_changes(tmp_path: Path) -> None:
    folder, told = write(tmp_path / "data", PAIR_FILES), list[str]()

    def again(options: Mapping[str, Any] | None = None, **given: Any) -> bool:
        told.clear()
        data = prepared(folder, PAIRS, options, progress=lambda what, *_: told.append(what), **given)
        assert same(data.train.epoch(0), prepared(folder, PAIRS, options, **given).train.epoch(0))
        return not told

    assert not again()
    assert set(told) == {"train the tokenizer", "encode train.txt", "encode val.txt"}
    assert again()
    assert again({"batch_tokens": 64, "learning_rate": 1.0})
    assert again(tokenizer=Tokenizer.from_file(str(tmp_path / "tokens" / "tokenizer.json")))
    assert not again({"max_source_tokens": 20})
    assert not again()
    assert not again(tokenizer=train_tokenizer(["a"], 300, task=PAIRS))
    assert not again()
    write(folder, {"val.txt": pair_lines(21, first=800)})
    assert not again()
    (tmp_path / "tokens" / "prepared.json").unlink()
    assert not again()


def test_a_word_without_end_is_left_out_before_long(tmp_path: Path) -> None:
    # Learnt from as a whole, it would take the tokenizer a minute.
    endless = {**PAIR_FILES, "train.txt": PAIR_FILES["train.txt"] + "x" * 150_000 + "\ty\n"}
    data = prepared(write(tmp_path / "data", endless), PAIRS, {"batch_tokens": 200})
    assert data.report.notes() == ["train: 200 of 201 lines kept, 1 too long"]
