"""Models as their files are: several, changed ones, and some that lack what others have."""

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from gateways import Gateway, open_gateway
from inference_server import Service, inputs, run

from deploykit.errors import ArtifactError
from deploykit.gateway.catalogue import Catalogue


def altered(model: Path, name: str, content: bytes | None) -> None:
    """Change a file of a model's artifact, or take it away, its manifest in keeping."""
    manifest = json.loads((model / "1/manifest.json").read_text())
    if content is None:
        (model / "1" / name).unlink()
        del manifest["files"][name]
    else:
        (model / "1" / name).write_bytes(content)
        manifest["files"][name] = {"sha256": sha256(content).hexdigest(), "size": len(content)}
    (model / "1/manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def repository(chatty: Path, tmp_path: Path) -> Path:
    """A model repository that may be changed."""
    return shutil.copytree(chatty / "model_repository", tmp_path / "repository")


@pytest.fixture
def poor(repository: Path) -> Path:
    """A second model in it, without a tokenizer and so without a chat template."""
    folder = shutil.copytree(repository / "chatty", repository / "poor")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        altered(folder, name, None)
    return repository


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def gateway(poor: Path, service: Service) -> Iterator[Gateway]:
    running = run(service)
    with open_gateway([poor], running.url) as gateway:
        yield gateway
    running.server.stop(None)


def test_each_model_is_asked_by_its_name(gateway: Gateway, service: Service) -> None:
    assert [model["id"] for model in gateway.get("/v1/models").json()["data"]] == ["chatty", "poor"]
    for name in ("chatty", "poor"):
        reply = gateway.post("/v1/completions", {"model": name, "prompt": [5, 6]})
        assert reply.json()["model"] == name
        assert service.requests[-1].model_name == name
        assert inputs(service.requests[-1])["input_ids"] == [5, 6]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/completions", {"prompt": "a"}, "no tokenizer; send the prompt as token ids"),
        ("/v1/completions", {"prompt": [5], "echo": True}, "no tokenizer"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "no chat template"),
        ("/tokenize", {"prompt": "a"}, "no tokenizer"),
        ("/detokenize", {"tokens": [5]}, "no tokenizer"),
    ],
)
def test_what_a_model_lacks_is_said(gateway: Gateway, path: str, body: dict[str, object], said: str) -> None:
    reply = gateway.post(path, {"model": "poor", **body})
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]


def test_a_changed_model_is_read_again(repository: Path) -> None:
    catalogue = Catalogue([repository])
    before = catalogue.find("chatty")
    assert catalogue.reload() == []
    assert catalogue.find("chatty") is before
    tokenizer = json.loads((repository / "chatty/1/tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    altered(repository / "chatty", "tokenizer.json", json.dumps(tokenizer).encode())
    assert catalogue.reload() == ["chatty"]
    after = catalogue.find("chatty")
    assert after.fingerprint != before.fingerprint
    lengths = [len(model.tokens_from().encode("def greet").ids) for model in (before, after)]
    assert lengths[0] < lengths[1] == 9
    # A request that holds the old model still can use it.
    assert before.template
    assert before.template.render([{"role": "user", "content": "a"}])
    catalogue.close()


def test_a_damaged_model_leaves_all_as_it_was(repository: Path) -> None:
    catalogue = Catalogue([repository])
    before = catalogue.models
    altered(repository / "chatty", "tokenizer.json", b"{")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        catalogue.reload()
    assert catalogue.models == before
    shutil.rmtree(repository / "chatty")
    with pytest.raises(ArtifactError):
        catalogue.reload()
    assert catalogue.models == before
    catalogue.close()


def test_models_come_and_go(poor: Path) -> None:
    catalogue = Catalogue([poor])
    shutil.move(poor / "poor", poor / "rich")
    assert catalogue.reload() == ["rich"]
    assert [model.name for model in catalogue.models] == ["chatty", "rich"]
    catalogue.close()
