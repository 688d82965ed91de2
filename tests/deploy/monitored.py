"""A model to be monitored, without its files."""

from collections.abc import Sequence

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.monitoring import prometheus_rule
from deploykit.deploy.prometheus import Group
from deploykit.deploy.sizing import size_pod

PARTS = (
    "process", "weights", "tables", "cache", "activations", "loading", "tokenizer", "cache_full", "cache_limit", "peak",
)  # fmt: skip


def facts(name: str = "tiny-python") -> ModelFacts:
    return ModelFacts(
        name=name, version=1, fingerprint="0" * 64, precision="int8", size=2**20, rows=16, context=512, threads=2,
        memory=dict.fromkeys(PARTS, 2**20), load_seconds=2.0, load_measured=True, has_chat_template=False,
    )  # fmt: skip


def groups(config: DeployConfig, model: ModelFacts | None = None) -> Sequence[Group]:
    """The groups of a model's alerts."""
    model = model or facts()
    return prometheus_rule(model, size_pod(model, config), config).groups
