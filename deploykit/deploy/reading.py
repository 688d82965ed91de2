"""The facts of a packaged model, read from its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploykit.artifact import MANIFEST, Artifact
from deploykit.chat_template.sources import read_sources
from deploykit.config import EngineConfig, PackageConfig
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.loading import load_seconds
from deploykit.errors import ArtifactError, ConfigError
from deploykit.memory import DEFAULT_CONTEXT, Estimate, Load, estimate
from deploykit.outline import read_outline
from deploykit.repository import CONFIG, Model, open_repository
from deploykit.spec import DecoderSpec, Precision

# Measured as `deploykit.doctor.process` does it (x86-64 Linux, Python 3.11, ONNX Runtime 1.32), and fixed here: the
# same model must give the same manifests wherever they are written.
PROCESS: Final = 68_000_000
"""Bytes of a process that has imported the engine."""
TOKENIZER: Final = 2_000_000
"""Bytes that any tokenizer takes in it."""
TOKENIZER_FACTOR: Final = 13
"""Bytes more for each byte of `tokenizer.json`: 12.8 and 12.3 with byte-level BPE of 32,000 and 100,000 entries."""

ROW_STEP: Final = 16
"""Tokens by which the engine's rows grow (`engine.scheduler.CACHE_STEP`)."""


def read_facts(path: Path, config: DeployConfig) -> ModelFacts:
    """Return what a deployment must know of the one model at `path`, a packaged artifact or a model repository.

    Raises:
        ArtifactError: there is no model, more than one, or one that is damaged or can't run in the wanted mode.
        ConfigError: the model can't have so long a context, or the cache holds no row of it.
    """
    model = _only_model(path)
    model.verify(config.engine.mode)
    artifact = Artifact.open(model.version_folder(model.versions[-1]), verify=False)
    precision = artifact.precision_for(config.engine.mode)
    cache = Cache.of(artifact.contract(precision), config.engine)
    size, measured = _size(model), _load_seconds(artifact, precision)
    return ModelFacts(
        name=model.name,
        version=model.versions[-1],
        fingerprint=model.fingerprint,
        precision=precision,
        size=size,
        rows=config.engine.max_rows,
        context=cache.context,
        source=cache.source,
        threads=config.cpu,
        memory=_memory(artifact, precision, cache, config.engine),
        load_seconds=load_seconds(size, measured),
        load_measured=measured is not None,
        has_chat_template=read_sources(artifact.path) is not None,
    )


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What an engine's cache may grow to, as `engine.budget` reckons it."""

    context: int
    """Tokens of a row, a source's not counted."""
    source: int
    """Tokens of a row's source; 0 where there is no encoder."""
    full: int
    """Bytes of every row at its full context, and of its source."""
    limit: int
    """Bytes that they may take together."""

    @classmethod
    def of(cls, spec: DecoderSpec, config: EngineConfig) -> "Cache":
        """Return the cache of a model under a configuration.

        Raises:
            ConfigError: the engine would refuse to start with it.
        """
        context = config.max_context or min(spec.max_context, DEFAULT_CONTEXT)
        if context > spec.max_context:
            raise ConfigError(f"max_context must be at most {spec.max_context} tokens for this model, got {context}")
        source = min(spec.encoder.max_source, config.max_context or DEFAULT_CONTEXT) if spec.encoder else 0
        each = spec.cache_bytes_per_token()
        full = config.max_rows * (_stepped(context) + _stepped(source)) * each
        limit = min(full, config.cache_memory or full)
        tokens = limit // each // ROW_STEP * ROW_STEP
        least = _least(spec, config, context, source)
        if tokens < least:
            raise ConfigError(
                f"cache_memory holds {tokens} tokens of {each:,} bytes, and a row of this model needs {least}: "
                f"give it at least {least * each:,} bytes" + (" or lower max_context" if config.max_context else "")
            )
        # The engine is told one `max_context` for both sides: where they don't fit, each gets half, or an answer what a
        # shorter source leaves it.
        half = tokens // 2 // ROW_STEP * ROW_STEP
        context = min(context, max(half, tokens - _stepped(source)))
        return cls(context=context, source=min(source, context), full=full, limit=limit)


def _least(spec: DecoderSpec, config: EngineConfig, context: int, source: int) -> int:
    """Return the tokens without which nothing can run, or not what was asked for."""
    if config.max_context is not None:
        return _stepped(context) + _stepped(source)
    prompt = len(spec.encoder.decoder_prompt) if spec.encoder else 1
    return _stepped(prompt + 1) + _stepped(min(source, 1))


def _only_model(path: Path) -> Model:
    if (path / CONFIG).is_file():
        raise ArtifactError(f"{path}: is one model of a repository: give {path.absolute().parent}")
    models = open_repository(path).models
    if len(models) != 1:
        names = ", ".join(model.name for model in models)
        raise ArtifactError(f"{path}: holds {len(models)} models ({names}); a deployment is of one: give its artifact")
    try:
        # A folder may be called anything, and its name becomes part of arguments, queries and commands to paste.
        PackageConfig(name=models[0].name)
    except ConfigError as error:
        raise ArtifactError(f"{path}: a model's {error}; package it anew with --name") from None
    return models[0]


def _size(model: Model) -> int:
    """Return the bytes of all files that a pod is given."""
    manifests = [model.version_folder(version) / MANIFEST for version in model.versions]
    listed = [entry for file in manifests for entry in Artifact.open(file.parent, verify=False).manifest.files.values()]
    return sum(file.stat().st_size for file in (model.folder / CONFIG, *manifests)) + sum(e.size for e in listed)


def _load_seconds(artifact: Artifact, precision: Precision) -> float | None:
    """Return how long the graph took to load when it was packaged, None where nobody has measured it."""
    records = [record.result for record in artifact.manifest.history if record.stage == "package"]
    measured: Any = records[-1].get("load_seconds") if records else None
    seconds = measured.get(precision) if isinstance(measured, dict) else None
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 86_400 else None


def _memory(artifact: Artifact, precision: Precision, cache: Cache, config: EngineConfig) -> dict[str, int]:
    """Return the bytes of an engine at its peak, by part, for `ModelFacts.memory`."""
    file = artifact.tokenizer
    tokenizer = TOKENIZER + TOKENIZER_FACTOR * file.stat().st_size if file else 0
    graph, *encoder = (read_outline(file) for file in artifact.graphs(precision))
    guess = estimate(
        graph,
        artifact.contract(precision),
        Load(
            rows=config.max_rows,
            context=_stepped(cache.context),
            chunk=config.prefill_chunk,
            source=_stepped(cache.source),
        ),
        process=PROCESS + tokenizer,
        # What processor the pod will meet is not known, and without such a product loading takes more.
        dot_product=False,
        encoder=encoder[0] if encoder else None,
    )
    return {
        **_limited(guess, cache).to_json(),
        "tokenizer": tokenizer,
        "cache_full": cache.full,
        "cache_limit": cache.limit,
    }


def _limited(guess: Estimate, cache: Cache) -> Estimate:
    """Return the estimate with no more keys and values than they may take."""
    fields = guess.to_json()
    del fields["peak"]
    # A cache that is put together anew in each step is in memory more than once, so the estimate's share is scaled.
    copies = 3 if guess.cache > cache.full else 1
    return Estimate(**{**fields, "cache": min(guess.cache, copies * cache.limit)})


def _stepped(tokens: int) -> int:
    return -(-tokens // ROW_STEP) * ROW_STEP
