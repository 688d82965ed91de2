"""The options of the commands that the linter understands, and what each takes."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from deploykit.config import MetricsAccess, Mode

Takes = Literal["int", "float", "bytes", "text", "mode", "access", "nothing"]
"""What stands behind a flag."""

VERBS: Final = (
    "export", "serve", "gateway", "generate", "chat", "train", "convert", "optimize", "quantize", "validate",
    "package", "deploy", "pull", "inspect", "doctor",
)  # fmt: skip
"""What `deploykit` can be told to do."""

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"mode": get_args(Mode), "access": get_args(MetricsAccess)}

_ANSWERING: Final[Mapping[str, Takes]] = {
    "--api-keys": "text",
    "--metrics-access": "access",
    "--cors-origin": "text",
    "--max-body": "bytes",
    "--max-requests": "int",
    "--body-timeout": "float",
    "--answer-timeout": "float",
}
_LOGGING: Final[Mapping[str, Takes]] = {
    "--log-requests": "nothing",
    "--no-log-requests": "nothing",
    "--log-prompts": "nothing",
}
_COMMON: Final[Mapping[str, Takes]] = {"--json": "nothing", "--help": "nothing", "-h": "nothing"}

FLAGS: Final[Mapping[str, Mapping[str, Takes]]] = {
    "serve": {
        "--host": "text",
        "--http-port": "int",
        "--grpc-port": "int",
        "--metrics-port": "int",
        "--health-port": "int",
        "--openai-port": "int",
        "--startup-timeout": "float",
        "--heartbeat-timeout": "float",
        "--exit-timeout": "float",
        "--connection-age": "float",
        "--mode": "mode",
        "--cache-memory": "bytes",
        "--max-rows": "int",
        "--max-queue": "int",
        "--max-context": "int",
        "--prefill-chunk": "int",
        "--threads": "int",
        **_LOGGING,
        "--no-log-prompts": "nothing",
        **_ANSWERING,
        **_COMMON,
    },
    "gateway": {
        "--triton": "text",
        "--host": "text",
        "--port": "int",
        "--exit-timeout": "float",
        "--connection-age": "float",
        **_LOGGING,
        **_ANSWERING,
        **_COMMON,
    },
    "pull": {
        "--output": "text",
        "-o": "text",
        "--fingerprint": "text",
        "--credentials": "text",
        "--overwrite": "nothing",
        **_COMMON,
    },
}
"""Flags by verb; a test holds them equal to those of the command line."""

FIELDS: Final[Mapping[str, str]] = {
    "--metrics-access": "metrics", "--cors-origin": "cors_origins", "--answer-timeout": "timeout", "-o": "output",
    "--no-log-requests": "log_requests", "--no-log-prompts": "log_prompts", "--json": "as_json",
}  # fmt: skip
"""Fields of the configuration that aren't called as their flags are."""
ENGINE: Final = (
    "mode", "cache_memory", "max_rows", "max_queue", "max_context", "prefill_chunk", "threads", "log_requests",
    "log_prompts",
)  # fmt: skip
"""Fields of `EngineConfig` that `deploykit serve` has flags for."""
ANSWERING: Final = tuple(FIELDS.get(flag, flag[2:].replace("-", "_")) for flag in _ANSWERING)
"""Fields of `GatewayConfig` that both verbs have flags for."""


def field(flag: str) -> str:
    """Return the field of a configuration that a flag sets."""
    return FIELDS.get(flag, flag.lstrip("-").replace("-", "_"))


_TRITON_NAMES: Final = """
    help id version
    log-verbose log-info log-warning log-error log-format log-file
    model-store model-repository exit-on-error disable-auto-complete-config strict-readiness strict-model-config
    model-control-mode repository-poll-secs load-model model-load-thread-count model-load-retry-count model-namespacing
    model-load-gpu-limit model-config-name enable-peer-access
    allow-http http-address http-port reuse-http-port http-header-forward-pattern http-thread-count
    http-restricted-api http-max-input-size
    allow-grpc grpc-address grpc-port reuse-grpc-port grpc-header-forward-pattern grpc-infer-thread-count
    grpc-infer-allocation-pool-size grpc-max-response-pool-size grpc-use-ssl grpc-use-ssl-mutual grpc-server-cert
    grpc-server-key grpc-root-cert grpc-infer-response-compression-level grpc-keepalive-time grpc-keepalive-timeout
    grpc-keepalive-permit-without-calls grpc-http2-max-pings-without-data
    grpc-http2-min-recv-ping-interval-without-data grpc-http2-max-ping-strikes grpc-max-connection-age
    grpc-max-connection-age-grace grpc-restricted-protocol
    allow-sagemaker sagemaker-port sagemaker-safe-port-range sagemaker-thread-count
    allow-vertex-ai vertex-ai-port vertex-ai-thread-count vertex-ai-default-model
    allow-metrics allow-gpu-metrics allow-cpu-metrics metrics-address metrics-port metrics-interval-ms metrics-config
    trace-file trace-level trace-rate trace-count trace-log-frequency trace-config
    backend-directory backend-config repoagent-directory cache-directory cache-config response-cache-byte-size
    host-policy pinned-memory-pool-byte-size cuda-memory-pool-byte-size cuda-virtual-address-size
    min-supported-compute-capability rate-limit rate-limit-resource buffer-manager-thread-count exit-timeout-secs
"""
TRITON: Final = frozenset(f"--{name}" for name in _TRITON_NAMES.split())
"""Options of `tritonserver` 2.51 and later (`tritonserver --help`)."""
TRITON_SWITCHES: Final = frozenset({"--help", "--version"})
"""Those that may stand without a value; all others want one, `--allow-http=true` among them."""
