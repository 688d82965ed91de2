"""What is read of a packaged model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig, PackageConfig
from deploykit.convert import convert
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.loading import load_seconds
from deploykit.deploy.reading import ROW_STEP, Cache, read_facts
from deploykit.doctor.process import process_bytes
from deploykit.engine.budget import Budget
from deploykit.engine.scheduler import CACHE_STEP
from deploykit.errors import ArtifactError, ConfigError
from deploykit.memory import LIBRARIES
from deploykit.package import package
from deploykit.repository import open_repository
from deploykit.spec import DecoderSpec, EncoderSpec, LayerCache

REPOSITORY = Path(__file__).parents[2] / "model_repository"
MODEL = REPOSITORY / "tiny-python"
SPEC = DecoderSpec(
    cache="shared",
    layers=(LayerCache(heads=2, key_dim=32, value_dim=32),),
    vocab_size=8,
    max_context=8192,
    logits_to_keep=True,
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the small model's repository."""
    shutil.copytree(MODEL, tmp_path / "models" / MODEL.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "models"


def with_result(version: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what an artifact says of its packaging."""
    manifest = json.loads((version / "manifest.json").read_text())
    change(manifest["history"][-1]["result"])
    (version / "manifest.json").write_text(json.dumps(manifest))


def test_the_facts_of_the_committed_model() -> None:
    facts = read_facts(REPOSITORY, DeployConfig(cpu=3))
    assert (facts.name, facts.version, facts.precision) == ("tiny-python", 1, "int8")
    assert (facts.rows, facts.context, facts.threads) == (16, 512, 3)
    assert facts.fingerprint == open_repository(REPOSITORY).models[0].fingerprint
    files = [file for file in MODEL.rglob("*") if file.is_file() and file.parent.name != "__pycache__"]
    assert facts.size == sum(file.stat().st_size for file in files)
    assert not facts.has_chat_template
    assert ModelFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_a_packaged_artifact_is_measured_when_it_is_packaged(tiny_llama: Path, tmp_path: Path) -> None:
    artifact = package(convert(tiny_llama, tmp_path / "onnx"), tmp_path / "out", PackageConfig(name="x", version=7))
    facts = read_facts(artifact.path, DeployConfig())
    assert (facts.name, facts.version, facts.precision) == ("x", 7, "fp32")
    measured = artifact.manifest.history[-1].result["load_seconds"]["fp32"]
    assert facts.load_measured
    assert facts.load_seconds == load_seconds(facts.size, measured) > measured


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.pop("load_seconds"),
        lambda result: result.update(load_seconds={"fp32": 1.0}),
        lambda result: result.update(load_seconds={"int8": "soon"}),
        lambda result: result.update(load_seconds=[3]),
    ],
)
def test_where_nobody_has_measured_it_the_load_is_guessed(
    repository: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    with_result(repository / "tiny-python/1", change)
    facts = read_facts(repository, DeployConfig())
    assert not facts.load_measured
    assert facts.load_seconds == load_seconds(facts.size, None)


def test_the_newest_version_is_deployed(repository: Path) -> None:
    shutil.copytree(repository / "tiny-python/1", repository / "tiny-python/10")
    shutil.copytree(repository / "tiny-python/1", repository / "tiny-python/9")
    one, three = read_facts(REPOSITORY, DeployConfig()), read_facts(repository, DeployConfig())
    assert three.version == 10
    assert 2.9 < three.size / one.size < 3.1


def test_a_chat_template_is_seen(repository: Path) -> None:
    (repository / "tiny-python/1/chat_template.jinja").write_text("{{ messages }}")
    assert read_facts(repository, DeployConfig()).has_chat_template


def test_several_models_are_one_line(repository: Path) -> None:
    shutil.copytree(repository / "tiny-python", repository / "other")
    with pytest.raises(ArtifactError, match=r"holds 2 models \(other, tiny-python\); a deployment is of one"):
        read_facts(repository, DeployConfig())


@pytest.mark.parametrize("name", ["x'; id; '", "a b", "_a", "ünï", "a" * 129, "$(id)"])
def test_a_model_of_a_name_that_nothing_else_takes_is_refused(repository: Path, name: str) -> None:
    (repository / "tiny-python").rename(repository / name)
    with pytest.raises(ArtifactError, match="package it anew with --name") as told:
        read_facts(repository, DeployConfig())
    assert repr(name) in str(told.value)


@pytest.mark.parametrize("file", ["onnx/model_int8.onnx_data", "tokenizer.json", "config.json"])
def test_a_damaged_file_is_named(repository: Path, file: str) -> None:
    damaged = repository / "tiny-python/1" / file
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{file}: SHA-256 differs"):
        read_facts(repository, DeployConfig())


def test_what_is_not_packaged_is_refused(tmp_path: Path, tiny_llama: Path) -> None:
    with pytest.raises(ArtifactError, match="not packaged for Triton yet; run: deploykit package"):
        read_facts(convert(tiny_llama, tmp_path / "onnx").path, DeployConfig())
    with pytest.raises(ArtifactError, match="no such folder"):
        read_facts(tmp_path / "nowhere", DeployConfig())


@pytest.mark.parametrize(
    ("engine", "error", "said"),
    [
        (EngineConfig(max_context=513), ConfigError, "max_context must be at most 512 tokens for this model, got 513"),
        (EngineConfig(cache_memory=2048), ConfigError, r"cache_memory holds 0 tokens of 2,048 bytes.* at least 32,768"),
        (EngineConfig(cache_memory=99999, max_context=512), ConfigError, "needs 512.* or lower max_context"),
        (EngineConfig(mode="throughput"), ArtifactError, "no dynamic-int8 model in it"),
    ],
)
def test_what_the_engine_would_refuse_is_refused_here(engine: EngineConfig, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        read_facts(REPOSITORY, DeployConfig(engine=engine))


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("context", [None, 2, 100, 4096, 8192])
@pytest.mark.parametrize("memory", [None, 2**22 + 7, 2**40])
def test_the_cache_is_what_the_engine_will_make_of_it(rows: int, context: int | None, memory: int | None) -> None:
    """Told what the manifests tell it, the engine has that context and takes that memory."""
    wanted = EngineConfig(max_rows=rows, max_context=context, cache_memory=memory)
    cache = Cache.of(SPEC, wanted)
    told = EngineConfig(max_rows=rows, max_context=cache.context, cache_memory=cache.limit)
    budget = Budget.of(SPEC, told)
    assert budget.context == cache.context
    assert cache.limit - ROW_STEP * SPEC.cache_bytes_per_token() < budget.bytes <= cache.limit <= cache.full
    if memory:
        assert (budget.tokens, budget.context) == (Budget.of(SPEC, wanted).tokens, Budget.of(SPEC, wanted).context)
    assert ROW_STEP == CACHE_STEP


@pytest.mark.parametrize("context", [None, 40, 512])
@pytest.mark.parametrize("memory", [None, 2**16 + 7, 2**18, 2**40])
@pytest.mark.parametrize("longest", [24, 512, 4000])
def test_a_pairs_cache_is_what_the_engine_will_make_of_it(
    context: int | None, memory: int | None, longest: int
) -> None:
    """Told one context for both sides, the engine starts, and has room for the source and the answer of the facts."""
    encoder = EncoderSpec(width=8, max_source=longest, decoder_prompt=(0,))
    spec = replace(SPEC, cache="concatenated", max_context=512, logits_to_keep=False, encoder=encoder)
    wanted = EngineConfig(max_rows=3, max_context=context, cache_memory=memory)
    try:
        cache = Cache.of(spec, wanted)
    except ConfigError:
        with pytest.raises(ConfigError):
            Budget.of(spec, wanted)
        return
    budget = Budget.of(spec, EngineConfig(max_rows=3, max_context=cache.context, cache_memory=cache.limit))
    assert (budget.context, budget.source) == (cache.context, cache.source)
    assert budget.bytes <= cache.limit <= cache.full


def test_an_encoder_decoders_facts(pair: Artifact, tmp_path: Path) -> None:
    artifact = package(pair, tmp_path / "out", PackageConfig(name="translate"))
    facts = read_facts(artifact.path, DeployConfig(engine=EngineConfig(max_rows=2)))
    assert (facts.context, facts.source, facts.load_measured) == (128, 128, True)
    each = pair.manifest.decoder.cache_bytes_per_token()
    assert facts.memory["cache_full"] == 2 * (128 + 128) * each
    # An answer's keys and values are put together anew in each step, a source's only when a row joins.
    assert facts.memory["cache"] == 2 * (3 * 128 + 2 * 128) * each
    assert ModelFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    half = read_facts(artifact.path, DeployConfig(engine=EngineConfig(max_rows=2, max_context=64)))
    assert (half.context, half.source) == (64, 64)


def test_less_cache_is_less_memory() -> None:
    whole = read_facts(REPOSITORY, DeployConfig()).memory
    half = read_facts(REPOSITORY, DeployConfig(engine=EngineConfig(cache_memory=2**23))).memory
    assert (whole["cache_full"], whole["cache_limit"], whole["cache"]) == (2**24, 2**24, 2**24)
    assert (half["cache_full"], half["cache_limit"], half["cache"]) == (2**24, 2**23, 2**23)
    assert whole["peak"] - half["peak"] == 2**23


def test_a_cache_that_is_put_together_anew_counts_thrice(traced: Artifact, tmp_path: Path) -> None:
    artifact = package(traced, tmp_path / "out", PackageConfig(name="x"))
    memory = read_facts(artifact.path, DeployConfig(engine=EngineConfig(max_rows=2))).memory
    assert memory["cache"] == 3 * memory["cache_limit"] == 3 * memory["cache_full"]


def test_the_process_is_what_is_measured() -> None:
    """The figures that are fixed in `reading` are still those of today's packages."""
    measured, how = process_bytes(MODEL / "1" / "tokenizer.json")
    assert how == "measured here"
    assert read_facts(REPOSITORY, DeployConfig()).memory["process"] - LIBRARIES == pytest.approx(measured, rel=0.15)
