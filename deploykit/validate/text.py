"""Where token ids come from: the artifact's tokenizer over a text, or a seeded generator where there is none."""

from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.errors import ArtifactError, ConfigError
from deploykit.validate.cases import Rows, row_lengths
from deploykit.validate.quality import Text

CHARACTERS: Final = 16
"""Characters read for each token wanted; a token of prose is 3 to 5."""
_SEED: Final = 20


def read_text(artifact: Artifact, config: ValidateConfig) -> Text:
    """Return `config.tokens` tokens of the text to measure on; random ones where there is no tokenizer.

    Raises:
        ArtifactError: the tokenizer can't be read, or gives ids the model doesn't have.
        ConfigError: the text can't be read, or is too short to predict anything.
    """
    vocab_size = artifact.manifest.decoder.vocab_size
    if artifact.tokenizer is None:
        ids = np.random.default_rng(_SEED).integers(0, vocab_size, config.tokens)
        return Text(name="random tokens", ids=ids, natural=False)
    tokenizer = _load(artifact.tokenizer)
    name, content = _content(config.text, CHARACTERS * config.tokens)
    bare = tokenizer.encode(content, add_special_tokens=False).ids[: config.tokens]
    if len(bare) < 2:
        raise ConfigError(f"text {name}: {len(bare)} tokens, but at least 2 are needed; give a longer --text")
    if max(bare) >= vocab_size:
        raise ArtifactError(
            f"{artifact.tokenizer}: gives token {max(bare)}, but the model has only {vocab_size}; the tokenizer "
            "belongs to another model"
        )
    return Text(name=name, ids=np.array(bare, np.int64), prefix=_prefix(tokenizer, vocab_size))


def make_rows(text: Text, max_context: int, vocab_size: int) -> Rows:
    """Return rows of different tokens: cut from the text where it is long enough, else random."""
    long, ragged = row_lengths(max_context)
    ids = text.ids
    if len(ids) < long + sum(ragged):
        ids = np.random.default_rng(_SEED).integers(0, vocab_size, long + sum(ragged))
    ends = np.cumsum([long, *ragged])
    first, *rest = np.split(ids[: ends[-1]], ends[:-1])
    return Rows(long=first, ragged=tuple(rest))


def _load(file: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises plain Exception
        raise ArtifactError(f"{file}: can't be read as a tokenizer: {error}; export the checkpoint again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _content(file: Path | None, characters: int) -> tuple[str, str]:
    if file is None:
        return "pydoc_data.topics", "\n\n".join(topics[name] for name in sorted(topics))[:characters]
    try:
        with file.open(encoding="utf-8") as stream:
            return file.name, stream.read(characters)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"text {file}: can't be read as UTF-8: {error}; give another --text") from error


def _prefix(tokenizer: Tokenizer, vocab_size: int) -> tuple[int, ...]:
    """Return the special tokens that the tokenizer puts before a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    if not bare or bare[0] not in full:
        return ()
    return tuple(token for token in full[: full.index(bare[0])] if token < vocab_size)
