"""The linter's rules, a module for each thing that they are about.

A module has `RULES`, a tuple of functions. A function's name, with dashes, is the rule that its findings name; the
first line of its docstring is what `docs/linting.md` says of it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests
from deploykit.deploy.check.rules import (
    commands,
    disruption,
    gpu,
    health,
    images,
    lifecycle,
    memory,
    monitoring,
    names,
    network,
    places,
    pods,
    ports,
    probes,
    queries,
    references,
    resources,
    rollout,
    scaling,
    schema,
    scraping,
    security,
    selectors,
    serving,
    storage,
    values,
)
from deploykit.deploy.facts import ModelFacts

Rule = Callable[[Manifests, ModelFacts | None], Iterator[Finding]]
"""Yields what is wrong; the facts are those of the model that is served, where they are known."""

RULES: Final[Sequence[Rule]] = (
    *schema.RULES,
    *references.RULES,
    *pods.RULES,
    *selectors.RULES,
    *names.RULES,
    *commands.RULES,
    *probes.RULES,
    *health.RULES,
    *ports.RULES,
    *lifecycle.RULES,
    *resources.RULES,
    *memory.RULES,
    *storage.RULES,
    *rollout.RULES,
    *scaling.RULES,
    *disruption.RULES,
    *network.RULES,
    *security.RULES,
    *images.RULES,
    *serving.RULES,
    *gpu.RULES,
    *queries.RULES,
    *monitoring.RULES,
    *places.RULES,
    *scraping.RULES,
    *values.RULES,
)
