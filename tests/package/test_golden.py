"""The committed `model_repository/` is what `deploykit package` makes, byte for byte."""

import shutil
from pathlib import Path

import pytest

from deploykit.config import PackageConfig
from deploykit.package import package

REPOSITORY = Path(__file__).parents[2] / "model_repository"
MODEL = REPOSITORY / "tiny-python"


def tree(folder: Path) -> dict[str, bytes]:
    # Triton's stub ignores PYTHONDONTWRITEBYTECODE: once served, the folder holds model.py's bytecode.
    files = (file for file in folder.rglob("*") if file.is_file() and file.parent.name != "__pycache__")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_packaging_the_model_again_gives_the_repository(tmp_path: Path, regen: bool) -> None:
    packaged = package(MODEL / "1", tmp_path / "out", PackageConfig(name=MODEL.name))
    made = packaged.path / "model_repository" / MODEL.name
    if regen:
        shutil.rmtree(MODEL)
        shutil.copytree(made, MODEL)
    assert tree(made).keys() == tree(MODEL).keys()
    for name, content in tree(made).items():
        assert content == (MODEL / name).read_bytes(), f"{name} changed; if that is meant: pytest --regen"


def test_is_small_enough_to_be_cloned_with_its_weights() -> None:
    assert sum(len(content) for content in tree(REPOSITORY).values()) <= 2_000_000


@pytest.mark.parametrize("name", ["config.pbtxt", "1/model.py", "1/manifest.json"])
def test_can_be_read(name: str) -> None:
    text = (MODEL / name).read_text()
    assert text.isascii()
    assert len(text.splitlines()) > 3
