"""What a person does around `kubectl apply`: what has to be there first, and how to see that it serves."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from deploykit.artifact import REPOSITORY
from deploykit.deploy import scaling
from deploykit.deploy.config import GATEWAY_PORT, GRPC_PORT, DeployConfig
from deploykit.deploy.delivery import store_secret
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.gateway import KEYS, api_keys_secret
from deploykit.deploy.names import image_name, kubernetes_name, namespace_of
from deploykit.deploy.sizing import Sizing
from deploykit.repository import CONFIG

BASE_IMAGE: Final = f"deploykit:{version('deploykit')}"
"""What docker/Dockerfile is built as."""

RELEASES: Final = "Kubernetes 1.28 to 1.37"
VOLUME_RELEASES: Final = "Kubernetes 1.33 with the feature gate ImageVolume, or 1.35 to 1.37 without"
"""Where images are mounted as volumes: 1.31 has them, but Pod Security's profile `restricted`, which the namespace has,
takes them only from 1.33 (https://github.com/kubernetes/kubernetes/pull/130394)."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something to do, and the commands that do it."""

    what: str
    commands: tuple[str, ...]


def first(facts: ModelFacts, config: DeployConfig, folder: str, artifact: str = "ARTIFACT") -> list[Step]:
    """Return what has to be there before the manifests in `folder` are applied.

    Args:
        facts: the model.
        config: what is wanted of the deployment.
        folder: where the manifests lie, as a shell finds it.
        artifact: where the packaged artifact lies, likewise.
    """
    return [
        *_image(facts, config, artifact),
        *_objects(facts, config, folder, artifact),
        *_operators(facts, config, folder),
    ]


def then(facts: ModelFacts, sizing: Sizing, config: DeployConfig, folder: str) -> list[Step]:
    """Return how to apply the manifests in `folder`, and to see that the model answers."""
    name, kubectl = kubernetes_name(facts.name), f"kubectl -n {namespace_of(facts, config)}"
    port = GATEWAY_PORT if config.gateway else GRPC_PORT
    return [
        Step(what="apply it", commands=(f"kubectl apply -k {folder}",)),
        Step(
            what="wait until it serves",
            commands=(f"{kubectl} rollout status deployment/{name} --timeout={sizing.startup_seconds + 300}s",),
        ),
        Step(
            what="open a way to it, in a terminal of its own",
            commands=(f"{kubectl} port-forward service/{name} {port}",),
        ),
        Step(what="ask it", commands=(_question(facts, config),)),
    ]


def _question(facts: ModelFacts, config: DeployConfig) -> str:
    """Return a command that gets the first answer, with what is installed wherever this runs."""
    if not config.gateway:
        call = f'Client("localhost:{GRPC_PORT}", model={json.dumps(facts.name)}).generate("Hello", max_tokens=32)'
        return f"python -c {shlex.quote(f'from deploykit.client import Client; print({call}.text)')}"
    body = json.dumps({"model": facts.name, "prompt": "Hello", "max_tokens": 32})
    return (
        f"curl localhost:{GATEWAY_PORT}/v1/completions -H 'Authorization: Bearer KEY' "
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )


def _image(facts: ModelFacts, config: DeployConfig, artifact: str) -> Iterator[Step]:
    if config.image is not None:
        return
    built = f"{image_name(facts)}:{facts.version}"
    base = f"docker build -t {BASE_IMAGE} -f docker/Dockerfile ."
    yield Step(what=f"in a clone of deploykit's repository, the image of any model, {BASE_IMAGE}", commands=(base,))
    if config.delivery == "image":
        what = (
            f"there, the image {built} with the model in it; then where nodes get images from, or name yours: --image"
        )
        yield Step(what=what, commands=(f"docker build -t {built} -f docker/model/Dockerfile {artifact}",))
    else:
        what = f"the image {built}; then where nodes get images from, or name yours: --image"
        yield Step(what=what, commands=(f"docker tag {BASE_IMAGE} {built}",))


def _objects(facts: ModelFacts, config: DeployConfig, folder: str, artifact: str) -> Iterator[Step]:
    """Yield what isn't part of the output, since it holds what is secret or large."""
    kubectl = f"kubectl -n {namespace_of(facts, config)}"
    before = config.gateway or config.image_pull_secret or config.delivery in ("pvc", "s3")
    if config.namespace is None and before:
        what = f"the namespace {namespace_of(facts, config)}"
        yield Step(what=what, commands=(f"kubectl apply -f {folder}/base/namespace.yaml",))
    elif config.namespace:
        yield Step(what=f"the namespace {config.namespace}", commands=(f"kubectl get namespace {config.namespace}",))
    if config.image_pull_secret:
        create = f"{kubectl} create secret docker-registry {config.image_pull_secret}"
        yield Step(
            what="what nodes show the registry: a file of Docker's logins, such as ~/.docker/config.json",
            commands=(f"{create} --from-file=.dockerconfigjson=FILE",),
        )
    yield from _files(facts, config, kubectl, artifact)
    if config.gateway:
        secret = api_keys_secret(facts, config)
        yield Step(
            what="the callers' keys: a file with a line NAME:KEY for each",
            commands=(f"{kubectl} create secret generic {secret} --from-file={KEYS}=FILE",),
        )


def _files(facts: ModelFacts, config: DeployConfig, kubectl: str, artifact: str) -> Iterator[Step]:
    """Yield where the model's files have to be."""
    source, files = shlex.quote(config.source or ""), f"{artifact}/{REPOSITORY}"
    match config.delivery:
        case "pvc":
            what = (
                f"the claim {config.source} with the model repository in it: {facts.name}/{CONFIG} and so on; pods on "
                "several nodes mount it, so its access modes must have ReadOnlyMany or ReadWriteMany"
            )
            modes = "-o jsonpath='{.spec.accessModes}'"
            yield Step(what=what, commands=(f"{kubectl} get pvc {source} {modes}",))
        case "s3":
            what = f"the model repository at {config.source}"
            yield Step(what=what, commands=(f"aws s3 cp --recursive {files} {source}",))
            yield Step(
                what="the bucket's credentials, unless the pods have an identity that opens it: a file with the lines "
                "AWS_ACCESS_KEY_ID=…, AWS_SECRET_ACCESS_KEY=… and AWS_REGION=…",
                commands=(f"{kubectl} create secret generic {store_secret(facts)} --from-env-file=FILE",),
            )
        case "volume":
            build = f"printf 'FROM scratch\\nCOPY . /\\n' | docker build -t {source} -f - {files}"
            yield Step(
                what=f"the image {config.source} with nothing but the model repository in it, where nodes get images "
                "from; by its digest, where you gave that",
                commands=(build,),
            )
            yield Step(what=f"{VOLUME_RELEASES}, on every node", commands=("kubectl get nodes",))


def _operators(facts: ModelFacts, config: DeployConfig, folder: str) -> Iterator[Step]:
    if config.scaling == "keda":
        yield Step(
            what=f"KEDA 2.17 or newer, and Prometheus at {config.prometheus}",
            commands=("kubectl get crd scaledobjects.keda.sh",),
        )
    if config.scaling == "hpa":
        values = f"{folder}/components/hpa/{scaling.ADAPTER_FILE}"
        chart = "prometheus-community/prometheus-adapter"
        yield Step(
            what="Prometheus, and prometheus-adapter with our rule; to an adapter that is there add the rule by hand, "
            "since these values take the place of its own",
            commands=(
                "helm repo add prometheus-community https://prometheus-community.github.io/helm-charts",
                f"helm upgrade --install prometheus-adapter {chart} -n {config.monitoring_namespace} --values {values}",
            ),
        )
    if config.scaling != "none" and not config.monitoring:
        series = f'namespace, pod and job="{kubernetes_name(facts.name)}"'
        query, address = (
            scaling.in_flight_query(facts, config),
            shlex.quote(f"{config.prometheus.rstrip('/')}/api/v1/query"),
        )
        yield Step(
            what=f"in that Prometheus the pods' port `metrics`, each series with {series}, as --monitoring has the "
            "Prometheus operator do it; once the pods run, this has a value",
            commands=(f"curl -G {address} --data-urlencode {shlex.quote(f'query={query}')}",),
        )
    if config.monitoring:
        yield Step(
            what="the Prometheus operator",
            commands=("kubectl get crd podmonitors.monitoring.coreos.com prometheusrules.monitoring.coreos.com",),
        )
