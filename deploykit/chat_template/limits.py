"""How far a chat template may go."""

from dataclasses import dataclass

from deploykit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one rendering may take; usual templates take less than a hundredth of each."""

    cpu_seconds: float = 2.0
    """Of processor time, counted by the kernel, so that a busy machine doesn't fail what is sound."""
    wall_seconds: float = 10.0
    """Of anything else: a process that was stopped, and waiting for a free one."""
    memory: int = 256 * 2**20
    """Bytes beyond what the interpreter itself takes."""
    request: int = 32 * 2**20
    """Bytes of messages, tools and variables together, as JSON."""
    output: int = 16 * 2**20
    """Bytes of the text that comes out."""
    processes: int = 4
    """Renderings at once; each process beyond the first starts when all others are at work."""

    def __post_init__(self) -> None:
        for name in ("cpu_seconds", "wall_seconds", "memory", "request", "output", "processes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} of a chat template must be above 0, got {getattr(self, name)}")
