"""From an encoder-decoder's checkpoint to answers, in one call: the package gives PyTorch's tokens."""

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
import torch
from seq2seq_models import make_pair
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import deploykit.transformer.pretrained  # noqa: F401 - makes the article's model known to transformers
from deploykit.config import EngineConfig, ValidateConfig
from deploykit.engine import Engine, SamplingParams
from deploykit.engine.request import Event
from deploykit.pipeline import export
from deploykit.spec import TASK_TEXT2TEXT

SOURCES = ("Grüße, name", "for number in range(10): print(greet(number))", "你好")
STEPS = 12
SCALE = {"deploykit_transformer": 0.1, "t5": 0.2}
"""Standard deviation of the random weights: one at which answers go on, by family."""


@pytest.fixture
def few(tmp_path: Path) -> ValidateConfig:
    (tmp_path / "pairs.tsv").write_text("name\treturn\nfor number in range\tprint\n")
    return ValidateConfig(text=tmp_path / "pairs.tsv", tokens=16)


def greedy(checkpoint: Path, sources: list[list[int]]) -> list[list[int]]:
    """Return PyTorch's own answers, each alone, without the tokens they all begin with."""
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        found = [
            model.generate(input_ids=torch.tensor([ids]), max_new_tokens=STEPS, do_sample=False, num_beams=1)[0, 1:]
            for ids in sources
        ]
    return [ids.tolist() for ids in found]


def answers(artifact: Path, sources: list[list[int]]) -> list[list[int]]:
    """Return the engine's answers, all asked at once."""
    queues: list[SimpleQueue[Event]] = [SimpleQueue() for _ in sources]
    with Engine.open(artifact, EngineConfig(max_rows=2, threads=1)) as engine:
        for ids, queue in zip(sources, queues, strict=True):
            engine.submit(ids, SamplingParams(max_tokens=STEPS), on_event=queue.put)
        return [[token for event in ending(queue) for token in event.token_ids] for queue in queues]


def ending(queue: "SimpleQueue[Event]") -> Iterator[Event]:
    """Yield a request's events up to its last."""
    while True:
        event = queue.get(timeout=60)
        yield event
        if event.finish_reason is not None:
            return


@pytest.mark.parametrize("family", ["deploykit_transformer", pytest.param("t5", marks=pytest.mark.slow)])
def test_the_package_answers_as_pytorch_does(tmp_path: Path, few: ValidateConfig, family: str) -> None:
    checkpoint = make_pair(tmp_path / "checkpoint", family, scale=SCALE[family])
    told: list[str] = []

    def progress(what: str, done: float, total: float, note: str = "") -> None:
        told.extend([what] if total and done >= total else [])

    result = export(checkpoint, tmp_path / "out", quantize="none", name="pairs", validate=few, progress=progress)
    assert result.manifest.task == TASK_TEXT2TEXT
    # No line stands there twice.
    assert {"writing weights, decoder", "writing weights, encoder", "optimize, decoder", "optimize, encoder"} <= {*told}
    assert len(told) == len({*told})
    assert [record.stage for record in result.manifest.history] == [
        *("convert", "optimize", "quantize", "validate", "package")
    ]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    sources = [tokenizer(text)["input_ids"] for text in SOURCES]
    wanted = greedy(checkpoint, sources)
    # Random weights may end every answer at once, which would prove little.
    assert max(map(len, wanted)) == STEPS
    assert answers(result.path / "model_repository/pairs/1", sources) == wanted
