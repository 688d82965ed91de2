"""What the objects of a model are called, and the labels by which they find each other."""

import re
from typing import Any, Final

from lightkube.core.resource import Resource, api_info
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.errors import ConfigError

LONGEST: Final = 50
"""Characters of a model's name in a cluster: a name of 63 has room for `-headless` and the like."""
PREFIX: Final = "deploykit"
"""In front of our own annotations: `deploykit/needs`."""
NEEDS: Final = f"{PREFIX}/needs"
"""Annotation of a Deployment: objects that must be in the cluster already, `secret/NAME, pvc/NAME`."""
ACCELERATOR: Final = f"{PREFIX}/accelerator"
"""Annotation of a Deployment whose pods want a GPU, or a slice of one, by which the clouds' components know."""
SERVER: Final = "inference-server"
"""The component that pods of a model are."""
TRITON: Final = "triton"
"""The container that serves."""
GATEWAY: Final = "gateway"
"""The container with OpenAI's API."""
OPENAI: Final = "openai"
"""Its port, by name."""


def kubernetes_name(model: str) -> str:
    """Return the name of a model's objects: lower case, digits and dashes, at most 50 characters.

    Raises:
        ConfigError: nothing of the model's name is left.
    """
    name = re.sub(r"[^a-z0-9-]", "-", model.lower()).strip("-")[:LONGEST].strip("-")
    if not name:
        raise ConfigError(f"model {model!r} has no letter or digit that a Kubernetes name may have; package it anew")
    # A Service's name is a label of DNS (RFC 1035), which begins with a letter.
    return name if name[0].isalpha() else f"m-{name}"[:LONGEST].strip("-")


def namespace_of(facts: ModelFacts, config: DeployConfig) -> str:
    """Return the namespace that a model's pods run in: one that is there, or the model's own."""
    return config.namespace or kubernetes_name(facts.name)


def image_name(facts: ModelFacts) -> str:
    """Return what an image of one's own building is called."""
    return f"{PREFIX}-{kubernetes_name(facts.name)}"


def image(facts: ModelFacts, config: DeployConfig) -> str:
    """Return the image that every container runs; the overlays' `images:` may choose another tag or digest of it."""
    return config.image or f"{image_name(facts)}:{facts.version}"


def labels(facts: ModelFacts, component: str = SERVER) -> dict[str, str]:
    """Return Kubernetes' six recommended labels for an object of a model.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
    """
    name = kubernetes_name(facts.name)
    return {
        "app.kubernetes.io/name": PREFIX,
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/version": str(facts.version),
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": name,
        "app.kubernetes.io/managed-by": PREFIX,
    }


def selector(facts: ModelFacts) -> dict[str, str]:
    """Return the labels that select a model's pods: those that no new version changes, as a selector can't change."""
    return {key: labels(facts)[key] for key in ("app.kubernetes.io/name", "app.kubernetes.io/instance")}


def pod_selector(facts: ModelFacts) -> LabelSelector:
    """Return `selector` as the object that most kinds want."""
    return LabelSelector(matchLabels=selector(facts))


def metadata(
    facts: ModelFacts, suffix: str = "", *, component: str = SERVER, annotations: dict[str, str] | None = None
) -> ObjectMeta:
    """Return the metadata of a model's object; its namespace is set by the kustomizations.

    Args:
        facts: the model.
        suffix: what its name has behind the model's, such as `-headless`.
        component: what part of the whole it is.
        annotations: its annotations.
    """
    return ObjectMeta(
        name=kubernetes_name(facts.name) + suffix, labels=labels(facts, component), annotations=annotations
    )


def kind_of(resource: type[Resource]) -> dict[str, Any]:
    """Return `apiVersion` and `kind` of a class of lightkube's resources, which leaves them out where not given."""
    about = api_info(resource).resource
    return {"apiVersion": about.api_version, "kind": about.kind}
