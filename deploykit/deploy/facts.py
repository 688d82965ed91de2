"""What a deployment must know of a model: read from an artifact, kept beside the manifests, read again by `--check`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

FILE: Final = "deploykit.json"
"""Where the facts are kept in the folder of the manifests."""

_MOST: Final = 2**63
"""What a number has to be below."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model as a pod has to carry it."""

    name: str
    """The Triton model's name."""
    version: int
    fingerprint: str
    """SHA-256 over its configuration and its manifest, which holds the hash of every file."""
    precision: str
    size: int
    """Bytes of the model repository's files."""
    rows: int
    """Requests that advance together."""
    context: int
    """Tokens of a row."""
    threads: int
    memory: Mapping[str, int]
    """Bytes of an engine at its peak, by part, as `deploykit.memory.Estimate` names them, `peak` among them; also those
    of the `tokenizer` (part of `process`), of keys and values of every row (`cache_full`), and what they may take of
    that (`cache_limit`)."""
    load_seconds: float
    """Seconds until the model is ready, as measured when it was packaged."""
    load_measured: bool
    """False where the artifact doesn't say and the seconds were guessed from its size."""
    has_chat_template: bool
    source: int = 0
    """Tokens of a row's source, which it holds beside its context; 0 where the model has no encoder."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as plain JSON values; a decoder's as they were before there were encoders."""
        facts = asdict(self)
        if not self.source:
            del facts["source"]
        return facts

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; ValueError or TypeError if it isn't that."""
        # What only writes manifests needs no msgspec.
        import msgspec

        facts = msgspec.convert(data, cls)
        if foreign := set(data) - {field.name for field in fields(cls)}:
            raise ValueError(f"unknown {', '.join(sorted(foreign))}")
        for name in ("version", "size", "rows", "context", "source", "threads", "load_seconds"):
            value, least = getattr(facts, name), 0 if name in ("source", "load_seconds") else 1
            if not least <= value < _MOST:
                raise ValueError(f"{name} must be {least} or more, got {value}")
        if missing := {"peak", "cache"} - set(facts.memory):
            raise ValueError(f"memory has no {', '.join(sorted(missing))}")
        if bad := [name for name, value in facts.memory.items() if not 0 <= value < _MOST]:
            raise ValueError(f"memory.{bad[0]} must be 0 or more, got {facts.memory[bad[0]]}")
        return facts
