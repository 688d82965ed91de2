"""Text and its tokens, for the stages that run a model on something: prose to fall back on, and the tokenizer."""

import stat
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

from tokenizers import Tokenizer

from deploykit.errors import ArtifactError, ConfigError

CHARACTERS: Final = 16
"""Characters read for each token wanted; a token of prose is 3 to 5."""
PROSE: Final = "pydoc_data.topics"
"""The text used where none is given: Python's documentation, 0.46 million characters."""


def read_start(file: Path | None, characters: int, *, option: str) -> tuple[str, str]:
    """Return a text's name and its first characters.

    Raises:
        ConfigError: the file can't be read as UTF-8.
    """
    if file is None:
        return PROSE, _prose()[:characters]
    try:
        _check_regular(file)
        # Without the mark that some editors put at the beginning.
        with file.open(encoding="utf-8-sig") as stream:
            return file.name, stream.read(characters)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error, option) from error


def read_end(file: Path | None, characters: int, *, option: str) -> tuple[str, str]:
    """Return a text's name and its last characters, fewer where they take several bytes.

    Raises:
        ConfigError: the file can't be read as UTF-8.
    """
    if file is None:
        return PROSE, _prose()[-characters:]
    try:
        _check_regular(file)
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - characters))
            data = stream.read()
        # The first character may have been cut in two.
        whole = data if size <= characters else data.lstrip(bytes(range(0x80, 0xC0)))
        return file.name, whole.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error, option) from error


def load_tokenizer(file: Path) -> Tokenizer:
    """Return the tokenizer in `file`, without a limit on a text's length.

    Raises:
        ArtifactError: it can't be read.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises plain Exception
        raise ArtifactError(f"{file}: can't be read as a tokenizer: {error}; export the checkpoint again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def prefix(tokenizer: Tokenizer, vocab_size: int) -> tuple[int, ...]:
    """Return the special tokens that the tokenizer puts before a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    if not bare or bare[0] not in full:
        return ()
    return tuple(token for token in full[: full.index(bare[0])] if token < vocab_size)


def _prose() -> str:
    return "\n\n".join(topics[name] for name in sorted(topics))


def _check_regular(file: Path) -> None:
    """Pass a regular file: a pipe would be waited for, and could be read once only."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError("not a regular file")


def _unreadable(file: Path, error: Exception, option: str) -> ConfigError:
    reason = getattr(error, "strerror", None) or error
    return ConfigError(f"text {file}: can't be read as UTF-8: {reason}; give another {option}")
