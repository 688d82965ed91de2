"""Trained on pairs, exported, served: what PyTorch, the engine and Triton make of sources is the same text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import deploykit
from deploykit.artifact import Artifact
from deploykit.client import Client
from deploykit.config import ServeConfig, ValidateConfig
from deploykit.engine import Engine, SamplingParams
from deploykit.serve import LocalServer, serve
from deploykit.train import TrainConfig, train

LENGTH = 24
"""Tokens of an answer, at most; a date has about ten."""
SMALL = TrainConfig(task="text2text-generation").but(
    {
        "hidden_size": 48,
        "num_heads": 4,
        "num_layers": 2,
        "intermediate_size": 96,
        "max_context": 128,
        "norm_first": True,
        "dropout": 0.0,
        "vocab_size": 320,
        "batch_tokens": 1024,
        "learning_rate": 4e-3,
        "max_steps": 120,
    }
)
"""Enough to answer each source with something else; dates.py is for right answers."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a training left behind, and what it wasn't trained on."""

    checkpoint: Path
    data: Path

    @property
    def sources(self) -> list[str]:
        """Sources of every length and script among what was held out."""
        lines = (self.data / "test.txt").read_text(encoding="utf-8").splitlines()
        return [line.split("\t")[0] for line in lines[:24]]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    from dates_data import write_dates

    folder = tmp_path_factory.mktemp("dates")
    write_dates(folder / "data", train=3000)
    train(folder / "data", folder / "checkpoint", SMALL)
    return Learned(checkpoint=folder / "checkpoint", data=folder / "data")


@pytest.fixture(scope="module")
def artifact(learned: Learned) -> Artifact:
    """Without quantization, which may change what is likeliest."""
    limits = ValidateConfig(text=learned.data / "val.txt")
    return deploykit.export(
        learned.checkpoint, learned.data.parent / "model", quantize="none", name="dates", validate=limits
    )


@pytest.fixture(scope="module")
def expected(learned: Learned) -> list[str]:
    """PyTorch's greedy answers, each source by itself."""
    tokenizer = AutoTokenizer.from_pretrained(learned.checkpoint)
    model = AutoModelForSeq2SeqLM.from_pretrained(learned.checkpoint, dtype=torch.float32).eval()
    return [greedy(model, tokenizer, source) for source in learned.sources]


def greedy(model: torch.nn.Module, tokenizer: object, source: str) -> str:
    inputs = tokenizer(source, return_tensors="pt", return_token_type_ids=False)  # type: ignore[operator]
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False, num_beams=1)  # type: ignore[operator]
    return str(tokenizer.decode(out[0], skip_special_tokens=True))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def triton(artifact: Artifact, ports: ServeConfig) -> Iterator[LocalServer]:
    with serve(artifact.path, ports) as running:
        yield running


def test_the_sources_tell_models_apart(expected: Sequence[str]) -> None:
    """A model that has learned nothing answers all with one text, and any engine would pass."""
    assert len(set(expected)) > 12


def test_the_engine_writes_what_pytorch_does(learned: Learned, artifact: Artifact, expected: list[str]) -> None:
    params = SamplingParams(max_tokens=LENGTH)
    with Engine.open(artifact.path) as engine:
        assert [engine.generate(source, params).text for source in learned.sources] == expected


@pytest.mark.triton
def test_triton_writes_what_pytorch_does_for_many_at_once(
    learned: Learned, triton: LocalServer, expected: list[str]
) -> None:
    with Client(triton.grpc_url) as client:
        assert client.translate(learned.sources, max_tokens=LENGTH) == expected


@pytest.mark.triton
def test_a_stream_from_triton_is_the_answer_alone(learned: Learned, triton: LocalServer, expected: list[str]) -> None:
    with Client(triton.grpc_url) as client:
        pieces = [chunk.text for chunk in client.generate(learned.sources[0], stream=True, max_tokens=LENGTH)]
    assert "".join(pieces) == expected[0]
