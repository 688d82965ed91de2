"""How many tokens the cache may hold, in all and in one row."""

from dataclasses import dataclass
from typing import Final

import deploykit.cgroup as cgroup
from deploykit.config import EngineConfig
from deploykit.engine.scheduler import CACHE_STEP, stepped
from deploykit.errors import ConfigError
from deploykit.memory import DEFAULT_CONTEXT
from deploykit.spec import DecoderSpec

DEFAULT_SHARE: Final = 0.5
"""Of the memory that is free once the weights are loaded, where nobody says; see `EngineConfig.cache_memory`."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the cache may grow to."""

    tokens: int
    """In all; a multiple of `CACHE_STEP`."""
    context: int
    """In one row, a source's not counted."""
    source: int | None = None
    """Longest source, where the model is an encoder-decoder; a row holds it beside its context."""
    bytes: int
    """Memory that so many tokens take."""

    @classmethod
    def of(cls, spec: DecoderSpec, config: EngineConfig) -> "Budget":
        """Return the budget of a model under a configuration.

        Raises:
            ConfigError: `max_context` is more than the model's, or than `cache_memory` holds.
        """
        context = _context(spec, config)
        source = _source(spec, config)
        each = spec.cache_bytes_per_token()
        most = config.max_rows * (stepped(context) + stepped(source))
        tokens = min(most, _memory(config, each * most) // each // CACHE_STEP * CACHE_STEP)
        least = _least(spec, config, context, source)
        if tokens < least:
            raise ConfigError(
                f"cache_memory holds {tokens} tokens of {each:,} bytes, and a row of this model needs {least}: "
                f"give it at least {least * each:,} bytes" + (" or lower max_context" if config.max_context else "")
            )
        if not source:
            return cls(tokens=tokens, context=min(context, tokens), bytes=tokens * each)
        # Where not both fit, a source gets half, or what an answer leaves it.
        half = tokens // 2 // CACHE_STEP * CACHE_STEP
        source = min(source, max(half, tokens - stepped(context)))
        return cls(tokens=tokens, context=min(context, tokens - stepped(source)), source=source, bytes=tokens * each)


def _source(spec: DecoderSpec, config: EngineConfig) -> int:
    """Return the longest source in tokens, 0 where there is no encoder; `max_context` bounds both sides."""
    return min(spec.encoder.max_source, config.max_context or DEFAULT_CONTEXT) if spec.encoder else 0


def _least(spec: DecoderSpec, config: EngineConfig, context: int, source: int) -> int:
    """Return the tokens without which nothing can run, or not what was asked for."""
    if config.max_context is not None:
        return stepped(context) + stepped(source)
    prompt = len(spec.encoder.decoder_prompt) if spec.encoder else 1
    return stepped(prompt + 1) + stepped(min(source, 1))


def _memory(config: EngineConfig, most: int) -> int:
    if config.cache_memory is not None:
        return config.cache_memory
    available = cgroup.available_memory()
    return most if available is None else int(available * DEFAULT_SHARE)


def _context(spec: DecoderSpec, config: EngineConfig) -> int:
    if config.max_context is None:
        return min(spec.max_context, DEFAULT_CONTEXT)
    if spec.encoder and config.max_context <= (begun := len(spec.encoder.decoder_prompt)):
        raise ConfigError(
            f"max_context must be more than the {begun} tokens that every answer of this model begins with, "
            f"got {config.max_context}"
        )
    if config.max_context > spec.max_context:
        raise ConfigError(
            f"max_context must be at most {spec.max_context} tokens for this model, got {config.max_context}"
        )
    return config.max_context
