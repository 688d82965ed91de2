"""Rules on command lines that deploykit and Triton refuse."""

from collections.abc import Iterator
from typing import Final

from deploykit.deploy.check.commands import parse, unknown_verb
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests
from deploykit.deploy.facts import ModelFacts


def command_line(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An option, value or verb that `deploykit` or `tritonserver` refuses: the container ends at once."""
    for pods in manifests.pods():
        for container in pods.containers:
            server, verb = parse(container), unknown_verb(container)
            for problem in (*(server.problems if server else ()), *((verb,) if verb else ())):
                field = f"{container.path}.{problem.field}"
                yield pods.resource.find("command-line", field, problem.value, problem.why, problem.remedy)


RULES: Final = (command_line,)
