"""Where the token ids come from."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from altering import without

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.draft import draft
from deploykit.errors import ArtifactError, ConfigError
from deploykit.text import read_end
from deploykit.validate.text import DEFAULT, make_rows, read_text


def changed(artifact: Artifact, out: Path, tokenizer: str) -> Artifact:
    with draft(out) as sheet:
        sheet.carry(artifact)
        sheet.file("tokenizer.json").write_text(tokenizer)
        return sheet.commit(artifact.manifest)


def test_the_documentations_prose_is_the_default(fused: Artifact) -> None:
    text = read_text(fused, ValidateConfig(tokens=100))
    assert (text.name, len(text.ids), text.natural) == (DEFAULT, 100, True)
    assert len(set(text.ids.tolist())) > 20


def test_rows_are_cut_from_the_text_one_after_the_other(fused: Artifact) -> None:
    text = read_text(fused, ValidateConfig(tokens=1000))
    rows = make_rows(text, 128, 320)
    assert [len(row) for row in rows.all()] == [128, 24, 16, 12]
    np.testing.assert_array_equal(np.concatenate(rows.all()), text.ids[:180])


def test_a_short_text_is_replaced_by_random_rows(fused: Artifact) -> None:
    rows = make_rows(read_text(fused, ValidateConfig(tokens=16)), 128, 320)
    assert [len(row) for row in rows.all()] == [128, 24, 16, 12]
    assert max(row.max() for row in rows.all()) < 320


def test_without_a_tokenizer_ids_are_random_and_the_same_each_time(fused: Artifact, tmp_path: Path) -> None:
    bare = without(fused, tmp_path / "bare", "tokenizer.json")
    text = read_text(bare, ValidateConfig(tokens=50))
    assert (text.name, text.natural) == ("random tokens", False)
    np.testing.assert_array_equal(text.ids, read_text(bare, ValidateConfig(tokens=50)).ids)


def test_what_the_tokenizer_puts_before_a_text_becomes_the_prefix(fused: Artifact, tmp_path: Path) -> None:
    assert read_text(fused, ValidateConfig(tokens=16)).prefix == ()
    assert fused.tokenizer is not None
    tokenizer = json.loads(fused.tokenizer.read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
            "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]},
        },
    }
    text = read_text(changed(fused, tmp_path / "bos", json.dumps(tokenizer)), ValidateConfig(tokens=16))
    assert text.prefix == (0,)
    assert 1 not in text.ids


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "letters.txt: can't be read"), (b"\xff\xfe\xff", "can't be read as UTF-8"), (b"", "0 tokens")],
)
def test_a_text_that_cant_be_used(content: bytes | None, said: str, fused: Artifact, tmp_path: Path) -> None:
    file = tmp_path / "letters.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_text(fused, ValidateConfig(text=file))


def test_a_pipe_is_refused_and_not_waited_for(fused: Artifact, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"text .*pipe: .*not a regular file; give another --text"):
        read_text(fused, ValidateConfig(text=tmp_path / "pipe"))
    with pytest.raises(ConfigError, match=r"text .*pipe: .*not a regular file; give another --calibration"):
        read_end(tmp_path / "pipe", 10, option="--calibration")


def test_a_tokenizer_that_is_none(fused: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="can't be read as a tokenizer"):
        read_text(changed(fused, tmp_path / "broken", '{"model": 7}'), ValidateConfig())


def test_a_tokenizer_of_a_larger_vocabulary(fused: Artifact, tmp_path: Path) -> None:
    assert fused.tokenizer is not None
    tokenizer = json.loads(fused.tokenizer.read_text())
    tokenizer["model"]["vocab"] = {token: number + 9000 for token, number in tokenizer["model"]["vocab"].items()}
    with pytest.raises(ArtifactError, match=r"gives token 9\d+, but the model has only"):
        read_text(changed(fused, tmp_path / "other", json.dumps(tokenizer)), ValidateConfig())
