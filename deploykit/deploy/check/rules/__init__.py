"""The linter's rules, a module for each thing that they are about."""

from collections.abc import Callable, Iterator, Sequence

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests
from deploykit.deploy.facts import ModelFacts

Rule = Callable[[Manifests, ModelFacts | None], Iterator[Finding]]
"""Yields what is wrong; the facts are those of the model that is served, where they are known."""

RULES: Sequence[Rule] = ()
