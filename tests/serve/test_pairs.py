"""An encoder-decoder beside a decoder in a real Triton, a gateway in front: what its callers get and can't ask."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from seq2seq_models import make_pair
from triton_calls import generate, post

from deploykit.artifact import Artifact
from deploykit.cli.main import commands
from deploykit.client import AsyncClient, Client, InvalidRequestError
from deploykit.config import PackageConfig, ServeConfig
from deploykit.convert import convert
from deploykit.engine import Engine, SamplingParams
from deploykit.package import package
from deploykit.serve import LocalServer, serve

pytestmark = pytest.mark.triton

TEXTS = ["greet", "for number in range(10)", "Grüße, 你好", "x"]
SHORT = SamplingParams(max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The article's model in a repository, named `pair`."""
    root = tmp_path_factory.mktemp("pair")
    checkpoint = make_pair(root / "checkpoint", "deploykit_transformer", norm_first=True, share_embeddings=False)
    return package(convert(checkpoint, root / "converted"), root / "packaged", PackageConfig(name="pair"))


@pytest.fixture(scope="module")
def both(pair: Artifact, packaged: Artifact, anywhere: ServeConfig) -> Iterator[LocalServer]:
    with serve([pair.path, packaged.path], replace(anywhere, openai_port=0, engine={"threads": 1})) as running:
        yield running


@pytest.fixture(scope="module")
def engine(pair: Artifact) -> Iterator[Engine]:
    with Engine.open(pair.path) as running:
        yield running


@pytest.fixture(scope="module", params=["triton", "gateway"])
def client(request: pytest.FixtureRequest, both: LocalServer) -> Iterator[Client]:
    with Client(both.grpc_url if request.param == "triton" else str(both.openai_url), model="pair") as opened:
        yield opened


def ask(server: LocalServer, **fields: Any) -> tuple[int, Any]:
    status, body = post(f"{server.http_url}/v2/models/pair/generate", json.dumps(fields).encode())
    return status, json.loads(body)


def test_a_client_translates_one_text_and_several(client: Client, engine: Engine) -> None:
    """Each to its end: by the model's own token, or where the context is full."""
    whole = [engine.generate(text, SamplingParams(max_tokens=1000)) for text in TEXTS]
    assert client.translate(TEXTS[0], timeout=60) == whole[0].text
    assert client.translate(TEXTS, concurrency=2) == [answer.text for answer in whole]
    assert len({answer.text for answer in whole}) == len(TEXTS)
    assert client.translate(tuple(TEXTS[:2]), max_tokens=5, ignore_eos=True) == [
        engine.generate(text, SamplingParams(max_tokens=5, ignore_eos=True)).text for text in TEXTS[:2]
    ]
    assert client.translate([]) == []
    assert client.translate(TEXTS[0], max_tokens=None) == whole[0].text
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"n": 2}, "translate returns one text, and n is 2; call generate"),
        ({"stream": True}, "translate returns nothing but texts, and so has no stream; call generate or batch"),
        ({"return_errors": True}, "has no return_errors; call generate or batch"),
    ]
    for options, message in wrong:
        with pytest.raises(InvalidRequestError, match=message):
            client.translate("x", **options)


def test_a_loop_translates_as_threads_do(both: LocalServer, engine: Engine) -> None:
    async def main() -> tuple[str, list[str]]:
        async with AsyncClient(both.grpc_url, model="pair") as client:
            options: Any = {"max_tokens": 12, "ignore_eos": True}
            return await client.translate(TEXTS[0], **options), await client.translate(TEXTS, **options)

    one, all_of_them = asyncio.run(main())
    assert all_of_them == [engine.generate(text, SHORT).text for text in TEXTS]
    assert one == all_of_them[0]


def test_a_stream_and_its_figures_are_the_engines(client: Client, engine: Engine) -> None:
    wanted = engine.generate(TEXTS[1], SHORT)
    with client.generate(TEXTS[1], stream=True, max_tokens=12, ignore_eos=True) as stream:
        assert "".join(chunk.text for chunk in stream) == wanted.text
    answer = stream.completion()
    assert (answer.num_input_tokens, answer.num_output_tokens) == (wanted.num_input_tokens, 12)


def test_the_text_never_holds_its_source(both: LocalServer, engine: Engine) -> None:
    wanted = engine.generate(TEXTS[0], SHORT).text
    asked = {"text_input": TEXTS[0], "max_tokens": 12, "ignore_eos": True}
    assert ask(both, **asked)[1]["text_output"] == wanted
    assert ask(both, **asked, exclude_input_in_output=True)[1]["text_output"] == wanted
    status, body = ask(both, **asked, exclude_input_in_output=False)
    assert status == 400
    assert "exclude_input_in_output can't be false: this model's answer doesn't continue its input" in body["error"]


def test_a_decoder_beside_it_continues_its_prompt(both: LocalServer) -> None:
    status, body = generate(both, text_input="def ", max_tokens=3)
    assert status == 200
    assert json.loads(body)["text_output"].startswith("def ")


def test_what_it_is_not_made_for_is_refused_plainly(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="this model has no chat template"):
        client.chat([{"role": "user", "content": "Hello"}])
    with pytest.raises(InvalidRequestError, match="encoder reads at most 128"):
        client.generate([5] * 129)
    with pytest.raises(InvalidRequestError, match="encoder reads at most 128"):
        client.translate("x y " * 200)


def test_the_gateway_says_what_no_encoder_can(both: LocalServer, engine: Engine) -> None:
    def complete(**more: Any) -> Any:
        body = {"model": "pair", "prompt": TEXTS[:2], "max_tokens": 9, "temperature": 0, **more}
        return httpx2.post(f"{both.openai_url}/completions", json=body, timeout=30)

    answer = complete(ignore_eos=True).json()
    wanted = [engine.generate(text, replace(SHORT, max_tokens=9)) for text in TEXTS[:2]]
    assert [choice["text"] for choice in answer["choices"]] == [each.text for each in wanted]
    assert answer["usage"]["prompt_tokens"] == sum(each.num_input_tokens for each in wanted)
    assert complete(max_tokens=100_000).status_code == 200, "an answer ends where the context is full"
    for more, message, code in (
        ({"echo": True}, "echo can't be true: this model's answer doesn't continue its prompt", None),
        ({"prompt": [5] * 129}, "this model's encoder reads at most 128 tokens, but the prompt has 129; shorten it",
         "context_length_exceeded"),
    ):  # fmt: skip
        refused = complete(**more)
        assert refused.status_code == 400
        assert (refused.json()["error"]["message"], refused.json()["error"]["code"]) == (message, code)


def test_facts_tell_both_limits(both: LocalServer) -> None:
    facts = both.facts()
    assert (facts["pair"]["context"], facts["pair"]["source"]) == (128, 128)
    assert "source" not in facts["tiny"]


def test_the_command_line_answers_with_the_same_engine(pair: Artifact, engine: Engine) -> None:
    done = CliRunner().invoke(commands, ["generate", str(pair.path), TEXTS[0], "--max-tokens", "12", "--ignore-eos"])
    assert (done.exit_code, done.output) == (0, engine.generate(TEXTS[0], SHORT).text + "\n")
