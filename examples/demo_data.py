"""Gather the Python standard library's sources and documentation as training text.

    python examples/demo_data.py -o DIR [--max-bytes 20000000]

Writes DIR/train.txt and DIR/val.txt; one file in twenty is held out.
"""

import argparse
import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

END_OF_DOCUMENT = "<eos>\n"
SPECIALS = ("<bos>", "<eos>", "<pad>", "<unk>")
LEFT_OUT = {
    "site-packages",
    "dist-packages",
    # Tests are most of the library where it has them at all (Debian packages them apart).
    "test",
    "tests",
    "idle_test",
    # Tables of character codes, and generated files.
    "encodings",
    "pydoc_data",
}
HELD_OUT = 20


@dataclass(frozen=True)
class Document:
    """A source file or a page of documentation."""

    name: str
    text: str

    @property
    def digest(self) -> bytes:
        """What decides the place and the side of this document, on every machine alike."""
        return hashlib.sha256(self.name.encode()).digest()

    @property
    def held_out(self) -> bool:
        """Whether it is for val.txt."""
        return self.digest[-1] % HELD_OUT == 0


def documents() -> Iterator[Document]:
    """Yield the standard library's modules and the pages of its built-in help."""
    library = Path(sysconfig.get_path("stdlib"))
    for file in library.rglob("*.py"):
        name = file.relative_to(library)
        if LEFT_OUT.isdisjoint(name.parts) and not name.name.startswith("_sysconfigdata"):
            yield Document(name.as_posix(), file.read_text(encoding="utf-8", errors="replace"))
    from pydoc_data.topics import topics

    for topic, page in topics.items():
        yield Document(f"help/{topic}", page)


def write_stdlib_text(folder: Path, *, max_bytes: int = 20_000_000) -> None:
    """Write `train.txt` and `val.txt` to `folder`.

    Args:
        folder: made where it isn't there.
        max_bytes: size of both files together, at most; the first document that doesn't fit is the last one looked at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.txt").open("wb") as train, (folder / "val.txt").open("wb") as val:
        # By digest: a mixture, so that a part of it stands for the whole, and the same order everywhere.
        for document in sorted(documents(), key=lambda document: document.digest):
            if not document.text.strip() or any(special in document.text for special in SPECIALS):
                continue
            encoded = (document.text.rstrip() + "\n" + END_OF_DOCUMENT).encode()
            if train.tell() + val.tell() + len(encoded) > max_bytes:
                break
            (val if document.held_out else train).write(encoded)


def main() -> None:
    parser = argparse.ArgumentParser(description="Gather the standard library's text for training.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--max-bytes", type=int, default=20_000_000)
    options = parser.parse_args()
    write_stdlib_text(options.output, max_bytes=options.max_bytes)
    for name in ("train.txt", "val.txt"):
        print(f"{options.output / name}: {(options.output / name).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
