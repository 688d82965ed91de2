"""A model in an object store."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from buckets import BUCKET, ENVIRONMENT, Bucket, Way, s3_server, way_to

from deploykit.repository import open_repository

REPOSITORY = Path(__file__).parents[2] / "model_repository"


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def empty(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A place in a bucket, with the environment that opens it."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    return Bucket(endpoint, f"s3://{BUCKET}/{uuid4().hex}/repository")


@pytest.fixture(scope="session")
def uploaded(endpoint: str) -> Bucket:
    bucket = Bucket(endpoint, f"s3://{BUCKET}/shared")
    bucket.put(REPOSITORY)
    return bucket


@pytest.fixture
def shared(empty: Bucket, uploaded: Bucket) -> Bucket:
    """The repository of the project's own model in a bucket, to be read only."""
    return uploaded


@pytest.fixture
def bucket(empty: Bucket) -> Bucket:
    """The same, to be changed."""
    empty.put(REPOSITORY)
    return empty


@pytest.fixture
def way(shared: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The way to the server, which can be troubled."""
    with way_to(shared.endpoint) as way:
        monkeypatch.setenv("AWS_ENDPOINT_URL", way.url)
        yield way


@pytest.fixture(scope="session")
def fingerprint() -> str:
    return open_repository(REPOSITORY).models[0].fingerprint
