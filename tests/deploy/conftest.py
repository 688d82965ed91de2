"""Deployments that several tests look at, built once."""

from pathlib import Path

import pytest
from deployments import EVERYTHING, OVERLAYS, Object, build, write


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment without options."""
    return write(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def full_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment with every option."""
    return write(tmp_path_factory.mktemp("full"), EVERYTHING)


@pytest.fixture(scope="session")
def plain(plain_folder: Path) -> list[Object]:
    """The objects of a deployment without options."""
    return build(plain_folder)


@pytest.fixture(scope="session")
def overlays(full_folder: Path) -> dict[str, list[Object]]:
    """The objects of every overlay of a deployment with every option."""
    return {name: build(full_folder / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(scope="session")
def everything(overlays: dict[str, list[Object]]) -> list[Object]:
    """The objects of a deployment with every option, on ordinary nodes."""
    return overlays["cpu"]
