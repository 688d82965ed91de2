"""Options of `deploykit deploy`."""

from pathlib import Path
from typing import Final

import click

from deploykit.cli import options
from deploykit.config import EngineConfig, Mode
from deploykit.deploy.config import Delivery, DeployConfig, Scaling

writing = options.together(
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=None,
        metavar="DIR",
        help="Where to write the manifests.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace a deployment that is there already."),
    click.option(
        "--image",
        default=None,
        metavar="REPO@DIGEST",
        help="The image that runs, or REPO:TAG; deploykit-NAME:VERSION by default, as one builds it.",
    ),
    click.option(
        "--image-pull-secret",
        default=None,
        metavar="NAME",
        help="The Secret with which nodes get images from a private registry.",
    ),
    click.option(
        "--namespace",
        default=None,
        metavar="NAME",
        help="A namespace that is there; one of the model's own is part of the output by default.",
    ),
    click.option(
        "--delivery",
        type=options.choices(Delivery),
        default=DeployConfig.delivery,
        show_default=True,
        help="How the model gets to a pod: in the image, on a claim, from an object store, or as an image of its own.",
    ),
    click.option(
        "--source",
        default=None,
        metavar="WHERE",
        help="Where from: the claim's name (pvc), s3://BUCKET/PATH (s3), an image (volume).",
    ),
    click.option("--gateway", is_flag=True, help="Add a container with OpenAI's API to each pod."),
    click.option(
        "--api-keys-secret",
        default=None,
        metavar="NAME",
        help="The Secret with the gateway's API keys, under `keys`; NAME-api-keys by default.",
    ),
    click.option(
        "--scaling",
        type=options.choices(Scaling),
        default=DeployConfig.scaling,
        show_default=True,
        help="What sets the number of pods by their requests in flight.",
    ),
    click.option(
        "--replicas",
        type=int,
        default=DeployConfig.replicas,
        show_default=True,
        help="Pods, or the fewest of them where something scales.",
    ),
    click.option(
        "--max-replicas",
        type=int,
        default=DeployConfig.max_replicas,
        show_default=True,
        help="The most pods where something scales.",
    ),
    click.option("--monitoring", is_flag=True, help="Add a PodMonitor, alerts and a dashboard."),
    click.option(
        "--monitoring-namespace",
        default=DeployConfig.monitoring_namespace,
        show_default=True,
        metavar="NAME",
        help="Where Prometheus runs; it alone may read metrics.",
    ),
    click.option(
        "--prometheus",
        default=DeployConfig.prometheus,
        show_default=True,
        metavar="URL",
        help="Where KEDA asks for metrics.",
    ),
    click.option(
        "--cpu", type=int, default=DeployConfig.cpu, show_default=True, help="Cores of a pod's engine, and its threads."
    ),
)

engine = options.together(
    click.option(
        "--max-rows",
        type=int,
        default=EngineConfig.max_rows,
        show_default=True,
        help="Requests that advance together in a pod.",
    ),
    click.option(
        "--max-context",
        type=int,
        default=None,
        metavar="TOKENS",
        help="Longest prompt and answer together; the model's limit by default, at most 4096.",
    ),
    click.option(
        "--cache-memory",
        callback=options.amount,
        default=None,
        metavar="SIZE",
        help="Memory for keys and values, such as 2GiB; what all rows at their full context take by default.",
    ),
    click.option(
        "--max-queue",
        type=int,
        default=EngineConfig.max_queue,
        show_default=True,
        help="Requests that may wait in a pod.",
    ),
    click.option(
        "--prefill-chunk",
        type=int,
        default=EngineConfig.prefill_chunk,
        show_default=True,
        metavar="TOKENS",
        help="Prompt tokens run between two steps of others.",
    ),
    click.option(
        "--mode",
        type=options.choices(Mode),
        default=EngineConfig.mode,
        show_default=True,
        help="What runs: the precision it was exported to serve, or dynamic-int8.",
    ),
    click.option("--log-requests", is_flag=True, help="A line in the pod's log for each request that has ended."),
)
"""Fields of `EngineConfig`, with its defaults: a pod is sized by them, so they count more than `config.pbtxt`."""
ENGINE: Final = ("max_rows", "max_context", "cache_memory", "max_queue", "prefill_chunk", "mode", "log_requests")

placing = options.together(
    click.option(
        "--pre-stop",
        type=int,
        default=DeployConfig.pre_stop,
        show_default=True,
        metavar="SECONDS",
        help="How long a pod serves on after it was asked to end, until the cluster stops sending.",
    ),
    click.option(
        "--exit-timeout",
        type=int,
        default=DeployConfig.exit_timeout,
        show_default=True,
        metavar="SECONDS",
        help="What open streams get after that.",
    ),
    click.option(
        "--gpu-product",
        default=None,
        metavar="NAME",
        help="The node label nvidia.com/gpu.product in the overlays with a GPU; any by default.",
    ),
    click.option(
        "--mig-profile",
        default=DeployConfig.mig_profile,
        show_default=True,
        help="The slice of a GPU in the overlay mig.",
    ),
    click.option("--runtime-class", default=None, metavar="NAME", help="The RuntimeClass in the overlays with a GPU."),
)

checking = options.together(
    click.option("--check", is_flag=True, help="Write nothing; tell what in the manifests at PATH... would break."),
    click.option(
        "--artifact",
        type=click.Path(path_type=Path),
        default=None,
        help="The model that they serve; known from the deploykit.json beside them by default.",
    ),
    click.option("--strict", is_flag=True, help="Let warnings fail a check, too."),
    click.option("--remote", is_flag=True, help="Let kustomizations fetch what they name on the network."),
)
