"""Where token ids come from: the artifact's tokenizer over texts, or a seeded generator where there is none."""

import sysconfig
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.errors import ArtifactError, ConfigError
from deploykit.validate.cases import Rows, row_lengths
from deploykit.validate.quality import Sample, Text
from deploykit.validate.scripts import scripts_of

CHARACTERS: Final = 16
"""Characters read for each token wanted; a token of prose is 3 to 5."""
DEFAULT: Final = "Python's documentation and library"
CODE: Final = ("textwrap.py", "heapq.py", "shlex.py", "statistics.py")
"""Modules of the standard library that are read as code, one after the other, as far as tokens are wanted."""
_SEED: Final = 20


def read_text(artifact: Artifact, config: ValidateConfig) -> Text:
    """Return `config.tokens` tokens of the texts to measure on, as many of each; random ones without a tokenizer.

    Raises:
        ArtifactError: the tokenizer can't be read, or gives ids the model doesn't have.
        ConfigError: a text can't be read, or is too short to predict anything.
    """
    vocab_size = artifact.manifest.decoder.vocab_size
    if artifact.tokenizer is None:
        ids = np.random.default_rng(_SEED).integers(0, vocab_size, config.tokens)
        return Text(name="random tokens", samples=(Sample(label="random tokens", ids=ids),), natural=False)
    tokenizer = _load(artifact.tokenizer)
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
    return Text(name=name, samples=samples, prefix=_prefix(tokenizer, vocab_size))


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


def _load(file: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises plain Exception
        raise ArtifactError(f"{file}: can't be read as a tokenizer: {error}; export the checkpoint again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _contents(files: Mapping[str, Path], characters: int) -> dict[str, str]:
    """Return the beginning of each text, by label: of those the user named, else of prose and code of Python's own."""
    if not files:
        prose = "\n\n".join(topics[name] for name in sorted(topics))
        library = Path(sysconfig.get_path("stdlib"))
        code = "\n\n".join(_read(library / name, characters) for name in CODE)
        return {"English prose": prose[:characters], "Python code": code[:characters]}
    return {label: _read(file, characters) for label, file in files.items()}


def _read(file: Path, characters: int) -> str:
    try:
        with file.open(encoding="utf-8") as stream:
            return stream.read(characters)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"text {file}: can't be read as UTF-8: {error}; give another --text") from error


def _prefix(tokenizer: Tokenizer, vocab_size: int) -> tuple[int, ...]:
    """Return the special tokens that the tokenizer puts before a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    if not bare or bare[0] not in full:
        return ()
    return tuple(token for token in full[: full.index(bare[0])] if token < vocab_size)
