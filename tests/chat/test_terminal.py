"""`deploykit chat` on a real terminal, with a real engine and a real server."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from deploykit.artifact import Artifact
from deploykit.chat import open_remote
from deploykit.config import ServeConfig
from deploykit.serve import LocalServer, serve

Chat = Callable[..., Any]
CUT = "(cut at 3 tokens: max_tokens)"


def before(child: Any) -> str:
    """Return what came before the last thing that was waited for."""
    return str(child.before).replace("\r\n", "\n")


def piped(*arguments: object, lines: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deploykit", "chat", *map(str, arguments)]
    return subprocess.run(command, input=lines, capture_output=True, text=True, errors="replace", check=False)


def test_a_whole_conversation(chat: Chat, chatty: Artifact, here: Path) -> None:
    child = chat(chatty.path, "--max-tokens", 8, "--system", "Be brief.")
    child.expect(r"model, fp32, context of 4096 tokens\. Ctrl-D leaves, /help says what else there is\.")
    child.expect("> ")
    child.sendline("hello")
    child.expect(r"\(cut at 8 tokens: max_tokens\)\r\n> ")
    first = before(child)
    child.sendline("/set max_tokens 3000")
    child.expect("max_tokens is 3000\r\n> ")
    child.sendline("/set ignore_eos true")
    child.expect("ignore_eos is true\r\n> ")
    child.sendline("tell me a long story")
    child.expect(r"story\r\n[^\r]")
    child.sendintr()
    child.expect(r"\(stopped\)\r\n> ")
    child.send("unfinished")
    child.expect("unfinished")  # else the signal may come between the prompt and the wait for a key, which misses it
    child.sendintr()
    child.expect("Ctrl-D or /exit leaves, /help says what else there is\r\n> ")
    child.sendline("/sa\ttalk.json")
    child.expect(r"saved in talk\.json; to go on with it: deploykit chat [^ ]+/chatty --resume talk\.json\r\n> ")
    child.sendline("two \\")
    child.expect(r"\. ")
    child.sendline("lines")
    child.expect(r"lines\r\n[^\r]")
    child.sendintr()
    child.expect(r"\(stopped\)\r\n> ")
    child.sendline("/history")
    child.expect("user: two \r\nlines")
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    saved = json.loads((here / "talk.json").read_text())
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"] * 2
    assert saved["messages"][3]["stopped"] is True
    assert 0 < len(saved["messages"][3]["content"]) < 9000
    assert saved["system"] == "Be brief."
    assert first.strip()


def test_a_saved_conversation_goes_on(chat: Chat, chatty: Artifact, here: Path) -> None:
    done = piped(chatty.path, "--max-tokens", 4, lines="first words\n/save talk.json\n")
    assert done.returncode == 0, done.stderr
    child = chat(chatty.path, "--resume", "talk.json")
    child.expect(r"the conversation goes on: 1 message of yours so far\r\n> ")
    child.sendline("/history")
    child.expect("user: first words\r\nassistant: ")
    child.expect("> ")
    # The arrow key brings back what was said, and the option is still in force.
    child.send("\x1b[A\x1b[A")
    child.expect("first words")
    child.sendline("")
    child.expect(r"\(cut at 4 tokens: max_tokens\)\r\n> ")
    child.sendline("/exit")
    child.expect(pexpect.EOF)


def test_lines_from_a_pipe_give_answers_and_nothing_else(chatty: Artifact) -> None:
    done = piped(chatty.path, "--max-tokens", 3, lines="hello\n\nagain\r\n/reset\nhello\n")
    assert done.returncode == 0, done.stderr
    alone = piped(chatty.path, "--max-tokens", 3, lines="hello\n")
    assert done.stdout.startswith(alone.stdout)
    # The same answer after a new beginning: the conversation in between is gone.
    assert done.stdout.endswith(alone.stdout)
    assert done.stdout != alone.stdout * 2
    assert done.stderr.splitlines() == [CUT, CUT, "a new conversation begins", CUT]


@pytest.mark.parametrize(
    ("arguments", "lines", "status", "said"),
    [
        (["--temperature", "-1"], "", 9, "temperature must be 0 to 100"),
        (["--model", "x"], "", 2, "--model and --ca go with a URL"),
        (["--resume", "missing.json"], "", 2, "missing.json: no such file"),
        ([], "a\n/nope\nb\n", 2, "there is no /nope"),
        ([], "x" * 30000 + "\n", 9, "the context of 4096 leaves room for 4095; shorten it"),
    ],
)
def test_mistakes_are_one_line(
    chatty: Artifact, here: Path, arguments: list[str], lines: str, status: int, said: str
) -> None:
    done = piped(chatty.path, "--max-tokens", 2, *arguments, lines=lines)
    assert done.returncode == status
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_model_without_chat_template_is_refused_and_can_be_tried_raw(tiny_llama: Path, tmp_path: Path) -> None:
    from deploykit.convert import convert

    plain = convert(tiny_llama, tmp_path / "plain").path
    done = piped(plain, lines="hello\n")
    assert done.returncode == 5
    assert "has no chat template, so it was probably not made to chat; try --raw" in done.stderr
    raw = piped(plain, "--raw", "--max-tokens", 4, lines="def greet(\n")
    assert raw.returncode == 0, raw.stderr
    command = [sys.executable, "-m", "deploykit", "generate", str(plain), "def greet(", "--max-tokens", "4"]
    assert raw.stdout == subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout


def test_nobody_at_an_address_is_one_line() -> None:
    done = piped("127.0.0.1:9", lines="hello\n")
    assert done.returncode == 10
    assert done.stderr.startswith("error: 127.0.0.1:9: ")
    assert piped("127.0.0.1:9", "--precision", "int8", lines="").returncode == 2


@pytest.fixture(scope="module")
def served(chatty: Artifact) -> Iterator[LocalServer]:
    config = ServeConfig(
        http_port=0, grpc_port=0, metrics_port=0, health_port=0, openai_port=0, startup_timeout=60, heartbeat_timeout=10
    )
    with serve(chatty.path, config) as running:
        yield running


def address(server: LocalServer, protocol: str) -> str:
    return server.grpc_url if protocol == "grpc" else str(server.openai_url)


@pytest.mark.triton
def test_a_server_answers_as_the_engine_here_does(chatty: Artifact, served: LocalServer) -> None:
    targets = (chatty.path, address(served, "grpc"), address(served, "http"))
    here, *there = (piped(target, "--max-tokens", 6, lines="hello\nagain\n") for target in targets)
    assert here.returncode == 0
    for done in there:
        assert (done.returncode, done.stdout, done.stderr) == (0, here.stdout, here.stderr)


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_answer_from_a_server_is_stopped_too(chat: Chat, served: LocalServer, protocol: str) -> None:
    child = chat(address(served, protocol), "--ignore-eos")
    child.expect("> ")
    child.sendline("tell me a long story")
    child.expect(r"story\r\n[^\r]")
    child.sendintr()
    child.expect(r"\(stopped\)\r\n> ")
    child.sendline("/set max_tokens 4")
    child.expect("> ")
    child.sendline("go on")
    child.expect(r"\(cut at 4 tokens: max_tokens\)\r\n> ")
    child.sendline("/exit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_tells_its_context_at_the_start(served: LocalServer, protocol: str) -> None:
    model = open_remote(address(served, protocol))
    assert model.about == f"at {address(served, protocol)}, context of 4096 tokens"
    model.close()


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_full_context_of_a_server_leaves_the_oldest_out(served: LocalServer, protocol: str) -> None:
    lines = ("x" * 2500 + "\n") * 3
    done = piped(address(served, protocol), "--max-tokens", 4, lines=lines)
    assert done.returncode == 0, done.stderr
    assert "(the context is full: the oldest messages are left out from now on)" in done.stderr
