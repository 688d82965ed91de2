"""Where token ids come from: the artifact's tokenizer over texts, or a seeded generator where there is none."""

import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.errors import ArtifactError, ConfigError
from deploykit.text import CHARACTERS, load_tokenizer, prefix, read_start
from deploykit.validate.cases import Rows, row_lengths
from deploykit.validate.pairs import read_pairs
from deploykit.validate.quality import Sample, Text
from deploykit.validate.scripts import scripts_of

DEFAULT: Final = "Python's documentation and library"
CODE: Final = ("textwrap.py", "heapq.py", "shlex.py", "statistics.py")
"""Modules of the standard library that are read as code, one after the other, as far as tokens are wanted."""
_SEED: Final = 20


def read_text(artifact: Artifact, config: ValidateConfig) -> Text:
    """Return `config.tokens` tokens of the texts to measure on, as many of each; random ones without a tokenizer.

    An encoder-decoder's are answers to sources; see `pairs`.

    Raises:
        ArtifactError: the tokenizer can't be read, or gives ids the model doesn't have.
        ConfigError: a text can't be read, or is too short to predict anything.
    """
    if artifact.manifest.decoder.encoder:
        return read_pairs(artifact, config)
    vocab_size = artifact.manifest.decoder.vocab_size
    if artifact.tokenizer is None:
        ids = np.random.default_rng(_SEED).integers(0, vocab_size, config.tokens)
        return Text(name="random tokens", samples=(Sample(label="random tokens", ids=ids),), natural=False)
    tokenizer = load_tokenizer(artifact.tokenizer)
    files = config.text_files()
    count = max(2, config.tokens // (len(files) or 2))
    contents = _contents(files, CHARACTERS * count)
    samples = tuple(_sample(tokenizer, label, content, count) for label, content in contents.items())
    largest = max(int(sample.ids.max()) for sample in samples)
    if largest >= vocab_size:
        raise ArtifactError(
            f"{artifact.tokenizer}: gives token {largest}, but the model has only {vocab_size}; the tokenizer "
            "belongs to another model"
        )
    name = ", ".join(file.name for file in files.values()) or DEFAULT
    return Text(name=name, samples=samples, prefix=prefix(tokenizer, vocab_size))


def make_rows(text: Text, max_context: int, vocab_size: int) -> Rows:
    """Return rows of different tokens: cut from the text where it is long enough, else random."""
    long, ragged = row_lengths(max_context)
    ids = text.ids
    if len(ids) < long + sum(ragged):
        ids = np.random.default_rng(_SEED).integers(0, vocab_size, long + sum(ragged))
    ends = np.cumsum([long, *ragged])
    first, *rest = np.split(ids[: ends[-1]], ends[:-1])
    return Rows(long=first, ragged=tuple(rest))


def _sample(tokenizer: Tokenizer, label: str, content: str, count: int) -> Sample:
    found = tokenizer.encode(content, add_special_tokens=False)
    ids = np.array(found.ids[:count], np.int64)
    if len(ids) < 2:
        raise ConfigError(f"text {label}: {len(ids)} tokens, but at least 2 are needed; give a longer --text")
    return Sample(label=label, ids=ids, scripts=scripts_of(content, found.offsets[:count]))


def _contents(files: Mapping[str, Path], characters: int) -> dict[str, str]:
    """Return the beginning of each text, by label: of those the user named, else of prose and code of Python's own."""
    if not files:
        library = Path(sysconfig.get_path("stdlib"))
        code = "\n\n".join(_read(library / name, characters) for name in CODE)
        return {"English prose": _read(None, characters), "Python code": code[:characters]}
    return {label: _read(file, characters) for label, file in files.items()}


def _read(file: Path | None, characters: int) -> str:
    return read_start(file, characters, option="--text")[1]
