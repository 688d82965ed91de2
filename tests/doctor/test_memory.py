"""The estimate of memory beside a real engine's peak, in a process of its own."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import make_checkpoint

from deploykit.artifact import Artifact
from deploykit.convert import convert
from deploykit.doctor.finding import Finding
from deploykit.doctor.fit import check_fit
from deploykit.doctor.machine import has_dot_product
from deploykit.doctor.process import process_bytes
from deploykit.memory import Estimate, Load, estimate
from deploykit.outline import read_outline

ALLOWED = 0.15
LOAD = Load(rows=4, context=512, chunk=128)
MEASURE = """
import sys
from queue import SimpleQueue
from deploykit.config import EngineConfig
from deploykit.engine import Engine, SamplingParams
rows, context = int(sys.argv[2]), int(sys.argv[3])
answer = rows * (context // 128) + 16
with Engine.open(sys.argv[1], EngineConfig(max_rows=rows, max_context=context, threads=1)) as engine:
    queues = [SimpleQueue() for _ in range(rows)]
    for row, queue in enumerate(queues):
        prompt = [(7 + 97 * (row * context + at)) % 16000 for at in range(context - answer)]
        engine.submit(prompt, SamplingParams(max_tokens=answer, ignore_eos=True), on_event=queue.put)
    for queue in queues:
        while queue.get().finish_reason is None:
            pass
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model of two layers with a large vocabulary and a large cache: quick to run, and not small beside Python."""
    folder = tmp_path_factory.mktemp("memory")
    sizes = {"vocab_size": 16000, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 8}
    more = {"intermediate_size": 1024, "max_position_embeddings": 512}
    return convert(make_checkpoint(folder / "checkpoint", "llama", **sizes, **more), folder / "artifact")


def of(artifact: Artifact, load: Load) -> Estimate:
    process, _ = process_bytes(artifact.tokenizer)
    outline = read_outline(artifact.graph())
    return estimate(outline, artifact.contract(), load, process=process, dot_product=has_dot_product())


def test_the_estimate_is_near_what_an_engine_takes(wide: Artifact) -> None:
    arguments = [str(wide.path), str(LOAD.rows), str(LOAD.context)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    measured, guess = int(done.stdout) * 1024, of(wide, LOAD)
    assert abs(guess.peak / measured - 1) <= ALLOWED, (measured, guess)
    # Cache and weights are most of it, so that a wrong model of them would show.
    assert guess.cache + guess.weights + guess.tables > 0.5 * guess.peak


def test_the_cache_grows_with_rows_and_context(wide: Artifact) -> None:
    half, twice = of(wide, LOAD), of(wide, replace(LOAD, rows=8))
    assert half.cache == 4 * 512 * wide.contract().cache_bytes_per_token()
    assert twice.cache == 2 * half.cache
    assert twice.weights == half.weights


def test_what_does_not_fit_is_an_error_that_shows_the_arithmetic(wide: Artifact) -> None:
    huge = replace(LOAD, rows=10**7)
    found: Finding = check_fit(of(wide, huge), huge, "process measured here")
    assert found.level == "error"
    assert "process" in found.found
    assert "cache" in found.found
    assert "lower max_rows" in found.remedy
    assert check_fit(of(wide, LOAD), LOAD, "").level == "ok"


def test_a_process_that_cannot_be_measured_is_taken_to_be_typical(tmp_path: Path) -> None:
    size, how = process_bytes(tmp_path / "no-tokenizer.json")
    assert size > 10_000_000
    assert how.startswith("typical")
