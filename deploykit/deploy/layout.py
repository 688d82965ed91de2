"""The files of a deployment: a base, components that add to it, and an overlay for each kind of place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from deploykit.deploy import gateway, monitoring, scaling
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.disruption import disruption_budget
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.kustomize import FILE, Component, Image, Kustomization
from deploykit.deploy.names import image, namespace_of
from deploykit.deploy.network import namespace, network_policy
from deploykit.deploy.overlays import platforms
from deploykit.deploy.pod import deployment, service_account
from deploykit.deploy.services import headless_service, service
from deploykit.deploy.sizing import Sizing
from deploykit.deploy.yaml_text import Document, dump

CPU: Final = "cpu"
"""The overlay of ordinary nodes, which `kubectl apply -k DIR` takes."""
_BASE: Final = "What every overlay builds on."
_HEADS: Final[Mapping[str, str]] = {
    "networkpolicy.yaml": "Whatever else pods are to reach needs a rule here: a collector of traces, an object store\n"
    "on another port than 443.",
}
"""What a reader of a file of the base should know."""
_OVERLAY: Final = """\
Another image is set here; leave out a component to go without what it adds. Another namespace: deploykit deploy
--namespace, since alerts, the dashboard and what scales ask Prometheus for it by name."""


def files(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> dict[str, str]:
    """Return the text of every file by its path; the same for the same model and options."""
    chosen, places = chosen_components(facts, sizing, config), platforms(facts, config)
    found = {FILE: dump([Kustomization(resources=[f"overlays/{CPU}"])], head="Ordinary nodes; see overlays/.")}
    found |= dict(_base(facts, sizing, config))
    for component in [*chosen, *places]:
        found |= dict(_component(facts, config, component))
    for path, documents in scaling.files(config).items():
        found[f"components/{path}"] = dump(documents)
    for name, place in [(CPU, None), *((place.name, place) for place in places)]:
        found[f"overlays/{name}/{FILE}"] = _overlay(facts, config, [*chosen, *([place] if place else [])])
    return found


def chosen_components(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> list[Component]:
    """Return the components that the options ask for, which every overlay names."""
    parts = (scaling, gateway, monitoring)
    return [component for part in parts for component in part.components(facts, sizing, config)]


def _base(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> Iterator[tuple[str, str]]:
    objects: Mapping[str, Document] = {
        **({"namespace.yaml": namespace(facts)} if config.namespace is None else {}),
        "serviceaccount.yaml": service_account(facts),
        "deployment.yaml": deployment(facts, sizing, config),
        "service.yaml": service(facts),
        "service-headless.yaml": headless_service(facts),
        "poddisruptionbudget.yaml": disruption_budget(facts),
        "networkpolicy.yaml": network_policy(facts, config),
    }
    whole = Kustomization(namespace=namespace_of(facts, config), resources=list(objects))
    yield f"base/{FILE}", dump([whole], head=_BASE)
    for file, document in objects.items():
        yield f"base/{file}", dump([document], head=_HEADS.get(file, ""))


def _component(facts: ModelFacts, config: DeployConfig, component: Component) -> Iterator[tuple[str, str]]:
    folder = f"components/{component.name}"
    whole = replace(component, namespace=namespace_of(facts, config) if component.resources else None)
    yield f"{folder}/{FILE}", dump([whole], head=component.comment)
    for file, documents in component.resources.items():
        yield f"{folder}/{file}", dump(documents)
    for patch in component.patches:
        yield f"{folder}/{patch.file}", dump([patch.body])


def _overlay(facts: ModelFacts, config: DeployConfig, components: Sequence[Component]) -> str:
    # Not in the base: the gateway's container has the same image, and comes to the pod behind it.
    whole = Kustomization(
        namespace=namespace_of(facts, config),
        resources=["../../base"],
        components=[f"../../components/{component.name}" for component in components],
        images=[Image.parse(image(facts, config))],
    )
    return dump([whole], head=_OVERLAY)
