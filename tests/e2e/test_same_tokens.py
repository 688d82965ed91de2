"""The promise: PyTorch, the engine in this process and the engine behind Triton write the same text."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deploykit.artifact import Artifact
from deploykit.client import Client
from deploykit.engine import Engine, SamplingParams
from deploykit.serve import LocalServer

LENGTH = 64
PROMPTS = [
    "def get_",
    "    for item in self.",
    "class Parser:\n    def __init__(self",
    "if name is None:\n        raise ValueError(",
    "import os, sys\n\ndef main(",
    "x = [",
    "        return self.",
    "The value of the",
]
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 7}
PARAMS = SamplingParams(max_tokens=LENGTH, ignore_eos=True)


@cache
def torch_tokens(checkpoint: Path, prompt: str) -> tuple[int, ...]:
    """PyTorch's greedy continuation."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=LENGTH,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    return tuple(out[0, ids.shape[1] :].tolist())


def torch_text(checkpoint: Path, prompt: str) -> str:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    return str(tokenizer.decode(torch_tokens(checkpoint, prompt), skip_special_tokens=True))


def distinct(tokens: Sequence[Sequence[int]]) -> int:
    return len({token for row in tokens for token in row})


def test_the_prompts_tell_models_apart(checkpoint: Path) -> None:
    """An equality on a constant would prove nothing."""
    rows = [torch_tokens(checkpoint, prompt) for prompt in PROMPTS]
    assert distinct(rows) >= 20
    assert len(set(rows)) >= len(PROMPTS) - 1


def test_engine_alone_writes_pytorchs_tokens(checkpoint: Path, exact: Artifact) -> None:
    with Engine.open(exact.path) as engine:
        for prompt in PROMPTS:
            assert engine.generate(prompt, PARAMS).token_ids == torch_tokens(checkpoint, prompt)


def test_engine_with_eight_ragged_requests_writes_pytorchs_tokens(checkpoint: Path, exact: Artifact) -> None:
    with Engine.open(exact.path) as engine, ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = list(pool.map(lambda prompt: engine.generate(prompt, PARAMS), PROMPTS))
    assert [answer.token_ids for answer in answers] == [torch_tokens(checkpoint, prompt) for prompt in PROMPTS]


@pytest.mark.triton
def test_triton_alone_writes_pytorchs_text(checkpoint: Path, server: LocalServer) -> None:
    with Client(server.grpc_url, model="exact") as client:
        for prompt in PROMPTS:
            chunks = list(client.generate(prompt, stream=True, max_tokens=LENGTH, ignore_eos=True))
            assert "".join(chunk.text for chunk in chunks) == torch_text(checkpoint, prompt)
            assert chunks[-1].num_output_tokens == LENGTH
            assert chunks[-1].finish_reason == "length"


@pytest.mark.triton
def test_triton_with_eight_ragged_requests_writes_pytorchs_text(checkpoint: Path, server: LocalServer) -> None:
    with Client(server.grpc_url, model="exact") as client, ThreadPoolExecutor(len(PROMPTS)) as pool:

        def ask(prompt: str) -> str:
            return client.generate(prompt, max_tokens=LENGTH, ignore_eos=True).text

        assert list(pool.map(ask, PROMPTS)) == [torch_text(checkpoint, prompt) for prompt in PROMPTS]


@pytest.mark.triton
@pytest.mark.parametrize("sampling", [{}, SAMPLING])
def test_int8_through_triton_equals_int8_in_process(
    small: Artifact, server: LocalServer, sampling: dict[str, Any]
) -> None:
    params = SamplingParams.from_mapping({"max_tokens": LENGTH, **sampling})
    with Client(server.grpc_url, model="small") as client, ThreadPoolExecutor(len(PROMPTS)) as pool:
        served = list(pool.map(lambda p: client.generate(p, max_tokens=LENGTH, **sampling).text, PROMPTS))
    with Engine.open(small.path) as engine:
        assert served == [engine.generate(prompt, params).text for prompt in PROMPTS]


def test_quantization_is_judged_and_cheap(small: Artifact) -> None:
    found = small.manifest.parity["int8"]
    assert found["trained"]
    assert found["kl"] < 0.01
    assert found["top1_agreement"] > 0.9
