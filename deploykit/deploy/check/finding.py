"""What the linter has to say about one field."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A mistake: where it is, why it breaks, and what to do."""

    rule: str
    """The rule's name, words joined by dashes: `probe-port`."""
    level: Level
    """`error` breaks something; `warning` may be meant, or can't be known from the manifests alone."""
    object: str
    """`Deployment/writer`, with the namespace in front where there are several."""
    field: str
    """Path of the field: `spec.template.spec.containers[0].livenessProbe.httpGet.port`."""
    value: str
    """What stands there, as YAML would show it; empty where nothing does."""
    why: str
    """What happens in the cluster because of it, with the other side's field and value."""
    remedy: str
    source: str = ""
    """The file or overlay that it was read from."""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return asdict(self)

    def line(self) -> str:
        """Return the finding as one line for a reader."""
        value = f" = {self.value}" if self.value else ""
        return f"{self.level}: {self.object}: {self.field}{value}: {self.why}; {self.remedy} [{self.rule}]"
