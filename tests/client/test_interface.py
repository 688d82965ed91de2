"""The client's public face."""

import inspect
import json
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from inference_server import Service, inputs, piece, run
from openai_server import OpenAIService, run_gateway

import deploykit.client
import deploykit.client.testing


def test_the_public_names() -> None:
    assert deploykit.client.__all__ == [
        "TLS",
        "AsyncClient",
        "AsyncTextStream",
        "CancelledError",
        "Choice",
        "Chunk",
        "Client",
        "ClientError",
        "Completion",
        "DeadlineExceededError",
        "Health",
        "InvalidRequestError",
        "Message",
        "Model",
        "NotFoundError",
        "Options",
        "PermissionDeniedError",
        "Sampling",
        "ServerError",
        "StreamBrokenError",
        "TextStream",
        "TokenLogprob",
        "UnavailableError",
    ]


HEAVY = (
    "torch",
    "transformers",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "tokenizers",
    "rich",
    "click",
    "numpy",
    "tritonclient",
    "opentelemetry",
)


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("import deploykit.client, deploykit.client.testing", ("grpc", "google.protobuf", "httpx2")),
        ("from deploykit.client import Client; Client('127.0.0.1:9').close()", ("httpx2",)),
        ("from deploykit.client import Client; Client('http://127.0.0.1:9').close()", ("grpc", "google.protobuf")),
    ],
)
def test_it_loads_no_more_than_it_needs(code: str, more: tuple[str, ...]) -> None:
    code = f"import sys\n{code}\nprint([name for name in {HEAVY + more!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Example(NamedTuple):
    """An example of a docstring, or of the page about the client."""

    name: str
    code: str


def public() -> Iterator[tuple[str, Any]]:
    """Every public name, and every public method of it."""
    for module in (deploykit.client, deploykit.client.testing):
        yield module.__name__, module
        for name in module.__all__:
            thing = getattr(module, name)
            yield name, thing
            for member, value in inspect.getmembers(thing, inspect.isfunction):
                if not member.startswith("_") and value.__module__.startswith("deploykit.client"):
                    yield f"{name}.{member}", value


def blocks(text: str) -> list[str]:
    return [inspect.cleandoc(block.split("```")[0]) for block in text.split("```python\n")[1:]]


def examples() -> Iterator[Example]:
    for name, thing in public():
        if isinstance(thing, types.UnionType):
            continue
        for number, code in enumerate(blocks(inspect.getdoc(thing) or "")):
            yield Example(f"{name} {number}", code)
    page = Path(__file__).parents[2] / "docs" / "client.md"
    for number, code in enumerate(blocks(page.read_text(encoding="utf-8"))):
        yield Example(f"client.md {number}", code)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """The addresses in examples, and where there is a server in a test."""
    triton = run(Service(answer=several))
    gateway = run_gateway(OpenAIService())
    yield {"localhost:8001": triton.url, "http://localhost:9000": gateway.url}
    triton.server.stop(grace=0).wait()
    gateway.stop()


@pytest.fixture
def secure(certificates: Path, server_credentials: Any, tmp_path: Path) -> Iterator[str]:
    """The address of a server that speaks TLS; the files that examples name lie in the working directory."""
    for name in ("client", "me"):
        for kind in ("pem", "key"):
            shutil.copy(certificates / f"client.{kind}", tmp_path / f"{name}.{kind}")
    shutil.copy(certificates / "ca.pem", tmp_path)
    server = run(Service(answer=several), credentials=server_credentials)
    yield f"grpcs://localhost:{server.port}"
    server.server.stop(grace=0).wait()


def several(request: Any, context: Any) -> Iterator[Any]:
    """As many choices as were asked for, with log probabilities."""
    n = json.loads(inputs(request).get("sampling_parameters", "{}")).get("n", 1)
    token = json.dumps([{"7": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}}])
    yield piece(*["a"] * n, reasons=["None"] * n, tokens=[1] * n, logprobs=[token] * n)
    yield piece(*["b"] * n, reasons=["stop"] * n, tokens=[1] * n, logprobs=["[]"] * n)


def execute(example: Example, servers: dict[str, str]) -> None:
    code = example.code
    for written, real in servers.items():
        code = code.replace(written, real)
    exec(compile(code, example.name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(
    "example", [each for each in examples() if "TLS(" not in each.code], ids=lambda example: example.name
)
def test_every_example_runs(example: Example, servers: dict[str, str]) -> None:
    execute(example, servers)


@pytest.mark.parametrize("example", [each for each in examples() if "TLS(" in each.code], ids=lambda each: each.name)
def test_every_example_with_certificates_runs(
    example: Example, secure: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    execute(example, {"grpcs://localhost:8001": secure, "grpcs://models.example.com:443": secure})
    assert "live=True, ready=True" in capsys.readouterr().out


def test_every_public_name_has_an_example() -> None:
    documented = {example.name.split()[0] for example in examples()}
    names = {*deploykit.client.__all__, *deploykit.client.testing.__all__}
    # A type's own name has no docstring to hold one.
    assert names - documented == {"Reply"}
    methods = {name for name, _ in public() if name.partition(".")[0] in ("Client", "AsyncClient") and "." in name}
    assert methods - documented == {"Client.close", "AsyncClient.close"}


def test_the_package_is_typed() -> None:
    assert (Path(deploykit.client.__file__).parents[1] / "py.typed").exists()
