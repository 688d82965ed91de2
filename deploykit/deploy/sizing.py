"""What a pod needs, each figure with the arithmetic behind it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from deploykit.config import GatewayConfig
from deploykit.deploy.config import MODELS, DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.loading import load_arithmetic

MIB: Final = 2**20
SHM: Final = "/dev/shm"  # noqa: S108 -- a place in the pod
TMP: Final = "/tmp"  # noqa: S108 -- a place in the pod

# Measured on x86-64 Linux with Triton 2.51, Python 3.11 and ONNX Runtime 1.32: resident bytes of each process of
# `deploykit serve` and `deploykit gateway` with the model of `model_repository/`, at rest and after 512 streams.
SUPERVISOR: Final = 40 * MIB
"""`deploykit serve` itself, 26.4 MiB, and the small process that ends Triton if it is killed, 10.0 MiB."""
TRITON: Final = 64 * MIB
"""`tritonserver`: 36 MiB, and room for later releases, whose image was not run here."""
BACKEND: Final = 16 * MIB
"""What the backend's process has beyond its engine: 9 MiB after a few requests."""
REQUEST: Final = 32 * 1024
"""An open request in Triton and its backend: 14 and 12 KiB."""
TEMPLATES: Final = 4 * 22 * MIB
"""Processes that render chat templates: four at once at most, 21.3 MiB each."""
GATEWAY: Final = 96 * MIB
"""`deploykit gateway`: 91 MiB."""
STREAM: Final = 72 * 1024
"""An open request of the gateway: 60 to 72 KiB."""
BODIES: Final = 64
"""Bodies of the largest size that the gateway may hold at once; usual ones are a thousandth of that."""

RESERVE: Final = 15
"""Percent on top of memory: the estimate of an engine is proven within 15 % (benchmarks/results/memory.json)."""
STEP: Final = 64 * MIB
"""Memory is rounded up to a multiple of this."""

SHARED_MEMORY: Final = 64 * MIB
"""The least /dev/shm: what an instance of Triton's Python backend may ask for."""
TOKEN_ID: Final = 8
"""Bytes of a prompt's token in shared memory, int64."""
TEMPORARY: Final = 128 * MIB
"""Triton's log, the model's configuration, heartbeats."""
LOGS: Final = 50 * MIB
"""A container's log before kubelet cuts it: 5 files of 10 MiB (containerLogMaxFiles, containerLogMaxSize)."""

TOKEN_MICROSECONDS: Final = 424
"""Processor time of the gateway for a token, one stream (benchmarks/results/gateway.json)."""
TOKENS: Final = 1000
"""Tokens a second of a pod that the gateway must keep up with."""

PROBE_PERIOD: Final = 5
"""Seconds between two startup probes."""
LEAST_PROBES: Final = 60
TAIL: Final = 10
"""Seconds of the grace period for all that is neither waiting nor streams."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a container gets: requests and limits alike, so that the pod is of the class Guaranteed."""

    cpu_millis: int
    memory: int
    """Bytes."""
    ephemeral: int
    """Bytes of the node's disk: logs, and volumes of the pod that lie there."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A figure of the manifests, and how it came about."""

    what: str
    value: str
    """As it stands in the manifests."""
    how: str


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """Everything about a pod that is a number."""

    serve: Share
    """Of the container with Triton."""
    gateway: Share
    """Of the container with OpenAI's API, where there is one."""
    shm: int
    """Bytes of /dev/shm, which count in the memory of the container that serves."""
    tmp: int
    """Bytes of /tmp, on the node's disk."""
    model: int
    """Bytes of the volume that holds the model, where the pod downloads it."""
    cache: int
    """Bytes of keys and values: `--cache-memory`."""
    startup_threshold: int
    """Startup probes that may fail."""
    grace: int
    """Seconds from the end's announcement to SIGKILL."""
    lines: tuple[Line, ...]
    """The arithmetic, in reading order."""

    @property
    def startup_seconds(self) -> int:
        """Seconds that the startup probes allow: `--startup-timeout`."""
        return self.startup_threshold * PROBE_PERIOD


def size_pod(facts: ModelFacts, config: DeployConfig) -> Sizing:
    """Return what a pod with this model needs."""
    shm, tmp = _shared_memory(facts, config), _temporary(facts)
    model = _up(facts.size + facts.size // 10) if config.delivery == "s3" else 0
    bare = Sizing(
        serve=Share(
            cpu_millis=1000 * config.cpu,
            memory=with_reserve(sum(size for _, size in _memory(facts, config, shm))),
            ephemeral=_up(LOGS + tmp + model),
        ),
        gateway=Share(
            cpu_millis=_up(TOKEN_MICROSECONDS * TOKENS // 1000, 100),
            memory=with_reserve(sum(size for _, size in _gateway_memory(facts))),
            ephemeral=_up(LOGS),
        ),
        shm=shm,
        tmp=tmp,
        model=model,
        cache=facts.memory["cache_limit"],
        startup_threshold=max(LEAST_PROBES, math.ceil(3 * facts.load_seconds / PROBE_PERIOD)),
        grace=config.pre_stop + config.exit_timeout + TAIL,
        lines=(),
    )
    return replace(bare, lines=tuple(_lines(facts, config, bare)))


def quantity(size: int) -> str:
    """Return bytes as Kubernetes writes them: `640Mi`, or plain bytes where they are no whole number of those."""
    return f"{size // MIB}Mi" if size % MIB == 0 else str(size)


def cores(millis: int) -> str:
    """Return thousandths of a core as Kubernetes writes them: `2`, or `500m`."""
    return str(millis // 1000) if millis % 1000 == 0 else f"{millis}m"


def _memory(facts: ModelFacts, config: DeployConfig, shm: int) -> Iterator[tuple[str, int]]:
    """Yield the parts of the memory of the container that serves."""
    memory = facts.memory
    yield "deploykit serve", SUPERVISOR
    yield "Triton", TRITON
    yield "backend", BACKEND
    requests = _requests(facts, config)
    yield f"{requests:,} requests", requests * REQUEST
    if facts.has_chat_template:
        yield "chat templates", TEMPLATES
    yield "engine's process", memory["process"]
    yield "weights", memory["weights"]
    running = memory["tables"] + memory["cache"] + memory["activations"]
    if memory["loading"] > running:
        yield "largest weight while it is packed", memory["loading"]
    else:
        yield "tables", memory["tables"]
        yield "keys and values", memory["cache"]
        yield "activations", memory["activations"]
    yield SHM, shm


def _gateway_memory(facts: ModelFacts) -> Iterator[tuple[str, int]]:
    yield "deploykit gateway", GATEWAY
    yield "tokenizer", facts.memory["tokenizer"]
    if facts.has_chat_template:
        yield "chat templates", TEMPLATES
    yield f"{GatewayConfig.max_requests:,} requests", GatewayConfig.max_requests * STREAM
    yield f"{BODIES} full bodies", BODIES * GatewayConfig.max_body


def _requests(facts: ModelFacts, config: DeployConfig) -> int:
    """Return how many requests may be open: one more is refused."""
    return facts.rows + config.engine.max_queue


def _shared_memory(facts: ModelFacts, config: DeployConfig) -> int:
    """Return the bytes of /dev/shm: prompts pass through it, and as many as may wait can be there at once."""
    return _up(SHARED_MEMORY // 2 + _requests(facts, config) * _prompt(facts) * TOKEN_ID)


def _prompt(facts: ModelFacts) -> int:
    """Return the tokens of the longest prompt: an encoder-decoder's is its source."""
    return facts.source or facts.context


def _temporary(facts: ModelFacts) -> int:
    """Return the bytes of /tmp, where the engine also keeps rows that it has set aside for lack of cache."""
    return _up(TEMPORARY + max(0, facts.memory["cache_full"] - facts.memory["cache_limit"]))


def with_reserve(size: int) -> int:
    """Return bytes of memory with the reserve on top, rounded up."""
    return _up(-(-size * (100 + RESERVE) // 100))


def _up(size: int, step: int = STEP) -> int:
    return -(-size // step) * step


def _lines(facts: ModelFacts, config: DeployConfig, found: Sizing) -> Iterator[Line]:
    """Yield how each figure of `found` came about."""
    cpu = f"--cpu {config.cpu}, and as many threads of ONNX Runtime"
    yield Line(what="triton: cpu", value=cores(found.serve.cpu_millis), how=cpu)
    yield Line(
        what="triton: memory",
        value=quantity(found.serve.memory),
        how=_sum(_memory(facts, config, found.shm), reserve=True),
    )
    yield Line(
        what="triton: ephemeral-storage", value=quantity(found.serve.ephemeral), how=_sum(_disk(found), reserve=False)
    )
    yield Line(what=SHM, value=quantity(found.shm), how=_shared_memory_line(facts, config))
    yield Line(what=TMP, value=quantity(found.tmp), how=_temporary_line(facts))
    if found.model:
        how = f"{_mib(facts.size)} of files, and a tenth more for the download"
        yield Line(what=MODELS, value=quantity(found.model), how=f"{how}; {_rounded()}")
    yield Line(what="--cache-memory", value=quantity(found.cache), how=_cache_line(facts, config))
    yield Line(what="startup probes", value=str(found.startup_threshold), how=_startup_line(facts))
    grace = f"{config.pre_stop} s before the end begins + {config.exit_timeout} s for open streams + {TAIL} s"
    yield Line(what="grace period", value=f"{found.grace} s", how=grace)
    if config.gateway:
        yield from _gateway_lines(facts, found.gateway)


def _gateway_lines(facts: ModelFacts, share: Share) -> Iterator[Line]:
    cpu = f"{TOKEN_MICROSECONDS} µs a token × {TOKENS:,} tokens a second, rounded up to 100m"
    yield Line(what="gateway: cpu", value=cores(share.cpu_millis), how=cpu)
    memory = _sum(_gateway_memory(facts), reserve=True)
    yield Line(what="gateway: memory", value=quantity(share.memory), how=memory)
    yield Line(
        what="gateway: ephemeral-storage", value=quantity(share.ephemeral), how=_sum([("log", LOGS)], reserve=False)
    )


def _disk(found: Sizing) -> Iterator[tuple[str, int]]:
    yield "log", LOGS
    yield TMP, found.tmp
    if found.model:
        yield MODELS, found.model


def _shared_memory_line(facts: ModelFacts, config: DeployConfig) -> str:
    prompts = f"{_requests(facts, config):,} requests × {_prompt(facts):,} tokens × {TOKEN_ID} bytes"
    return f"{_mib(SHARED_MEMORY // 2)} for answers + {prompts}; {_rounded()}, in memory"


def _temporary_line(facts: ModelFacts) -> str:
    aside = facts.memory["cache_full"] - facts.memory["cache_limit"]
    rows = f" + {_mib(aside)} of rows set aside while the cache is full" if aside > 0 else ""
    return f"{_mib(TEMPORARY)} for Triton's log and heartbeats{rows}; {_rounded()}, on the node's disk"


def _cache_line(facts: ModelFacts, config: DeployConfig) -> str:
    tokens = f"({facts.context:,} + {facts.source:,} of a source)" if facts.source else f"{facts.context:,}"
    full = f"{facts.rows} rows × {tokens} tokens = {_mib(facts.memory['cache_full'])}"
    asked = config.engine.cache_memory
    if asked is None:
        return full
    # More than that is never taken, so it would only be memory that nobody uses.
    return (
        f"as asked for; all of {full}" if asked <= facts.memory["cache_full"] else f"all of {full}; more was asked for"
    )


def _startup_line(facts: ModelFacts) -> str:
    sums = load_arithmetic(facts.size, facts.load_seconds, measured=facts.load_measured)
    return f"every {PROBE_PERIOD} s, for 3 × ({sums}), at least {LEAST_PROBES}"


def _sum(parts: Iterator[tuple[str, int]] | list[tuple[str, int]], *, reserve: bool) -> str:
    text = " + ".join(f"{name} {_mib(size)}" for name, size in parts)
    return f"({text}) × 1.{RESERVE}, {_rounded()}" if reserve else f"{text}; {_rounded()}"


def _rounded() -> str:
    return f"rounded up to {STEP // MIB} MiB"


def _mib(size: int) -> str:
    """Return an amount in MiB, its part after the point where it is small."""
    mib = size / MIB
    return f"{mib:,.0f} MiB" if mib >= 10 or size % MIB == 0 else f"{mib:.1f} MiB"
