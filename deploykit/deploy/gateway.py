"""OpenAI's API in front of Triton: a second container of the pod, which asks its callers for a key."""

from typing import Final

from lightkube.models.core_v1 import (
    Container,
    ContainerPort,
    KeyToPath,
    SecretVolumeSource,
    Volume,
    VolumeMount,
)
from lightkube.resources.apps_v1 import Deployment

from deploykit.deploy import delivery, network, services
from deploykit.deploy.config import GATEWAY_PORT, GRPC_PORT, MODELS, DeployConfig
from deploykit.deploy.container import asked, connection_age, environment, pause, pull_policy, resources, security
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.kustomize import Component, Patch, merge
from deploykit.deploy.names import GATEWAY, NEEDS, OPENAI, image, kind_of, kubernetes_name
from deploykit.deploy.sizing import Sizing

READY: Final = "/health"
"""Green while Triton and every model are ready."""
LIVE: Final = "/health/live"
"""Green whatever Triton does: to start the gateway again is no remedy for it."""
KEYS: Final = "keys"
"""The key of the Secret that holds the callers' keys, and the file it becomes."""
API_KEYS: Final = "/etc/deploykit/api-keys"
"""Where that is mounted. A file, no variable: the gateway reads it again when the Secret changes."""
STARTUP_PROBES: Final = 60
"""Of 5 s each: the gateway itself is there in seconds, and waits for Triton by being not ready."""


def components(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> list[Component]:
    """Return the component with the gateway; none where nobody asked for one."""
    if not config.gateway:
        return []
    secret = api_keys_secret(facts, config)
    comment = (
        f"OpenAI's API beside Triton. The Secret {secret} must be there, or no pod starts; its key `{KEYS}` has a\n"
        f"caller's key on each line, `NAME:KEY`: kubectl create secret generic {secret} --from-file={KEYS}=FILE"
    )
    patches = [_container(facts, sizing, config), services.openai(facts), network.openai(facts)]
    return [Component(name="gateway", patches=patches, comment=comment)]


def api_keys_secret(facts: ModelFacts, config: DeployConfig) -> str:
    """Return the name of the Secret with the callers' keys."""
    return config.api_keys_secret or f"{kubernetes_name(facts.name)}-api-keys"


def _container(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> Patch:
    secret = api_keys_secret(facts, config)
    # Neither the Secret nor its key is optional: without keys, everybody would be let in.
    keys = SecretVolumeSource(secretName=secret, items=[KeyToPath(key=KEYS, path=KEYS)], defaultMode=0o440)
    pod = {
        "containers": [gateway(facts, sizing, config)],
        "volumes": [Volume(name="api-keys", secret=keys)],
    }
    needed = ", ".join([*delivery.needs(config), f"secret/{secret}"])
    return merge(
        "deployment.yaml",
        kind_of(Deployment),
        kubernetes_name(facts.name),
        metadata={"annotations": {NEEDS: needed}},
        spec={"template": {"spec": pod}},
    )


def gateway(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> Container:
    """Return the container with `deploykit gateway`, which reads the model's tokenizer where Triton reads the model."""
    return Container(
        name=GATEWAY,
        image=image(facts, config),
        imagePullPolicy=pull_policy(config),
        command=["deploykit"],
        args=[
            "gateway",
            MODELS,
            f"--triton=localhost:{GRPC_PORT}",
            "--host=0.0.0.0",
            f"--port={GATEWAY_PORT}",
            f"--api-keys={API_KEYS}/{KEYS}",
            f"--exit-timeout={config.exit_timeout}",
            f"--connection-age={connection_age(config):g}",
            *(["--log-prompts"] if config.engine.log_prompts else []),
        ],
        env=environment(),
        ports=[ContainerPort(name=OPENAI, containerPort=GATEWAY_PORT, protocol="TCP")],
        startupProbe=asked(LIVE, OPENAI, period=5, failures=STARTUP_PROBES),
        readinessProbe=asked(READY, OPENAI, period=5, failures=3),
        livenessProbe=asked(LIVE, OPENAI, period=10, failures=6),
        # As long as Triton's but for a moment: it takes no new callers while Triton still answers the last ones.
        lifecycle=pause(config.pre_stop),
        resources=resources(sizing.gateway),
        securityContext=security(),
        volumeMounts=[VolumeMount(name="api-keys", mountPath=API_KEYS, readOnly=True), *delivery.mounts(config)],
        terminationMessagePolicy="FallbackToLogsOnError",
    )
