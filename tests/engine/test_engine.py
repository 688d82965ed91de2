"""Whole answers: as transformers writes them, and the same whatever runs beside."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from engines import SMALL, open_engine, together, tokens_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig
from deploykit.engine import Engine, SamplingParams
from deploykit.engine.text import Codec
from deploykit.errors import ArtifactError, ConfigError, RequestError

PROMPTS = [
    "def ",
    "for number in range(10):\n    print(greet(number))\n",
    "x",
    "Grüße, 你好",
    "    return f'",
    "greet",
    "print(greet(number)) # and then once more from the top",
    "name",
]
LENGTH = 40
GREEDY = SamplingParams(max_tokens=LENGTH, logprobs=0)
SEEDED = SamplingParams(max_tokens=LENGTH, temperature=0.9, top_k=40, top_p=0.95, seed=11)
"""Few draws of so sharp a distribution would differ; 40 of them don't all fall on the likeliest token."""


@cache
def torch_answer(checkpoint: Path, prompt: str) -> tuple[tuple[int, ...], float]:
    """PyTorch's greedy tokens and the sum of their log probabilities."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=LENGTH, do_sample=False, attention_mask=torch.ones_like(ids))
        scores = torch.log_softmax(model(out).logits[0].double(), -1)
    tokens = out[0, ids.shape[1] :]
    return tuple(tokens.tolist()), scores[ids.shape[1] - 1 : -1].gather(1, tokens[:, None]).sum().item()


@pytest.fixture(params=["llama", "gpt2", "gpt2 concatenated"])
def kind(request: pytest.FixtureRequest, tiny_llama: Path, tiny_gpt2: Path) -> Iterator[tuple[Engine, Path]]:
    """An engine on each cache, and the checkpoint it came from."""
    name, _, cache_kind = request.param.partition(" ")
    artifact: Artifact = request.getfixturevalue(name)
    checkpoint = tiny_llama if name == "llama" else tiny_gpt2
    with open_engine(artifact, **({"cache": cache_kind} if cache_kind else {})) as engine:
        yield engine, checkpoint


def test_alone_and_together_it_writes_transformers_tokens(kind: tuple[Engine, Path]) -> None:
    engine, checkpoint = kind
    expected = [torch_answer(checkpoint, prompt) for prompt in PROMPTS]
    assert len({token for tokens, _ in expected for token in tokens}) >= 32, "an equality on a constant proves nothing"
    assert len({tokens for tokens, _ in expected}) == len(PROMPTS)
    alone = [engine.generate(prompt, GREEDY) for prompt in PROMPTS]
    assert [answer.token_ids for answer in alone] == [tokens for tokens, _ in expected]
    for answer, (_, logprob) in zip(alone, expected, strict=True):
        assert answer.cumulative_logprob == pytest.approx(logprob, abs=1e-3)
    beside = together(engine, [(prompt, GREEDY) for prompt in PROMPTS])
    assert [tokens_of(events) for events in beside] == [answer.token_ids for answer in alone]
    assert ["".join(event.text for event in events) for events in beside] == [answer.text for answer in alone]


def test_seeded_sampling_does_not_depend_on_neighbours(kind: tuple[Engine, Path]) -> None:
    engine, _ = kind
    requests = [(prompt, SEEDED if place % 2 else GREEDY) for place, prompt in enumerate(PROMPTS)]
    alone = [engine.generate(*request).token_ids for request in requests]
    assert [tokens_of(events) for events in together(engine, requests)] == alone
    assert [tokens_of(events) for events in together(engine, requests[::-1])] == alone[::-1]
    for other in (GREEDY, replace(SEEDED, seed=12)):
        assert engine.generate(PROMPTS[1], other).token_ids != alone[1]


def test_more_requests_than_rows_all_get_their_own_answer(llama: Artifact) -> None:
    requests = [(prompt, replace(SEEDED, seed=seed, max_tokens=5 + seed)) for seed in range(4) for prompt in PROMPTS]
    with Engine.open(llama.path, EngineConfig(max_rows=3, prefill_chunk=4, threads=1)) as engine:
        alone = [engine.generate(*request).token_ids for request in requests]
        assert [tokens_of(events) for events in together(engine, requests)] == alone
        assert (engine.stats().running, engine.stats().waiting) == (0, 0)


def test_text_is_what_transformers_decodes(engine: Engine, tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    for prompt in PROMPTS:
        answer = engine.generate(prompt, GREEDY)
        assert answer.text == tokenizer.decode(answer.token_ids, skip_special_tokens=True)


def test_tokens_and_text_are_the_same_prompt(engine: Engine, tiny_llama: Path) -> None:
    ids = AutoTokenizer.from_pretrained(tiny_llama)("Grüße")["input_ids"]
    assert engine.generate(ids, GREEDY) == engine.generate("Grüße", GREEDY)


def test_there_is_an_event_for_each_token(engine: Engine, llama: Artifact) -> None:
    events = list(engine.stream("def ", GREEDY))
    assert [event.num_output_tokens for event in events] == list(range(1, len(events) + 1))
    assert all(len(event.token_ids) == 1 for event in events)
    assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + [events[-1].finish_reason]
    assert {event.num_input_tokens for event in events} == {
        len(Codec.open(llama.path / "tokenizer.json").encode("def "))
    }
    logprobs = [event.cumulative_logprob or 0.0 for event in events]
    assert logprobs == sorted(logprobs, reverse=True)


def test_ends_where_the_context_ends(llama: Artifact) -> None:
    with Engine.open(llama.path, replace(SMALL, max_context=20)) as engine:
        answer = engine.generate([5] * 12, SamplingParams(max_tokens=500, ignore_eos=True))
        assert (answer.num_output_tokens, answer.finish_reason) == (8, "length")
        assert engine.generate([5] * 19, SamplingParams(ignore_eos=True)).num_output_tokens == 1
        with pytest.raises(RequestError, match="the prompt has 20 tokens, but the context of 20 leaves room for 19"):
            engine.generate([5] * 20)
    with pytest.raises(ConfigError, match="max_context must be at most 128 tokens for this model, got 129"):
        Engine.open(llama.path, EngineConfig(max_context=129))


def test_uses_the_whole_context(llama: Artifact, tiny_llama: Path) -> None:
    """The last token that fits is PyTorch's too: no row is cut short or overwritten at its end."""
    with Engine.open(llama.path, SMALL) as engine:
        answer = engine.generate("x", SamplingParams(max_tokens=500, ignore_eos=True))
    assert (answer.num_input_tokens + answer.num_output_tokens, answer.finish_reason) == (128, "length")
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(tiny_llama)("x")["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, *answer.token_ids[:-1]]])).logits[0]
    assert tuple(logits[len(ids) - 1 :].argmax(-1).tolist()) == answer.token_ids


def test_a_stop_string_ends_the_answer_and_is_not_in_it(engine: Engine) -> None:
    whole = engine.generate("def ", GREEDY)
    stop = whole.text[8:11]
    cut = engine.generate("def ", replace(GREEDY, stop=("never seen", stop)))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.token_ids == whole.token_ids[: cut.num_output_tokens]
    assert cut.num_output_tokens < whole.num_output_tokens
    held = engine.generate("def ", replace(GREEDY, stop=(whole.text[-2:] + "never seen",)))
    assert held.text == whole.text, "what was held back comes at the end"


def test_an_end_of_text_token_ends_the_answer_without_text(llama: Artifact) -> None:
    with open_engine(llama, eos_token_ids=()) as engine:
        whole = engine.generate("def ", GREEDY)
    last = next(place for place in range(5, LENGTH) if whole.token_ids[place] not in whole.token_ids[:place])
    with open_engine(llama, eos_token_ids=(1, whole.token_ids[last])) as engine:
        cut = engine.generate("def ", GREEDY)
        assert cut.finish_reason == "stop"
        assert cut.token_ids == whole.token_ids[: last + 1]
        assert cut.text == Codec.open(llama.path / "tokenizer.json").decode(list(whole.token_ids[:last]))
        assert engine.generate("def ", replace(GREEDY, ignore_eos=True)).token_ids == whole.token_ids


def test_refuses_an_artifact_that_was_changed(llama: Artifact, tmp_path: Path) -> None:
    shutil.copytree(llama.path, tmp_path / "changed")
    data = tmp_path / "changed" / "onnx" / "model.onnx_data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        Engine.open(tmp_path / "changed")


def test_runs_without_what_only_the_exporter_needs(llama: Artifact) -> None:
    script = """
import sys
from deploykit.engine import Engine
with Engine.open(sys.argv[1]) as engine:
    assert engine.generate("def ").num_output_tokens > 1
print(sorted({"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "click", "rich"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", script, llama.path], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
    assert run.stderr == ""
