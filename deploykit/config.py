"""What a user can choose, stage by stage; the command line and the docs read their defaults from here."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from deploykit.errors import ConfigError

Method = Literal["auto", "fused", "traced"]
Quantization = Literal["none", "fp16", "int8", "int4", "int4-fp16", "dynamic-int8", "auto"]
Rounding = Literal["rtn", "hqq", "gptq"]
Mode = Literal["deterministic", "throughput"]
Until = Literal["onnx", "optimized", "quantized", "validated", "packaged"]
MetricsAccess = Literal["key", "open", "off"]

BLOCK_SIZES = (16, 32, 64, 128, 256)
"""How many weights can share a scale: what ONNX Runtime's kernels know."""

_BLOCKS: tuple[Quantization, ...] = ("int8", "int4", "int4-fp16")
_FOUR: tuple[Quantization, ...] = ("int4", "int4-fp16")
_BEARS_ON: Mapping[str, tuple[Quantization, ...]] = {
    "block_size": _BLOCKS,
    "rounding": _BLOCKS,
    "symmetric": (*_BLOCKS, "auto"),
    "head_bits": (*_FOUR, "auto"),
    "table_bits": (*_FOUR, "auto"),
    "more_bits": (*_FOUR, "auto"),
    "sensitive": _FOUR,
    "max_quality_loss": ("auto",),
}
"""The precisions in which an option of `QuantizeConfig` changes something; `auto` tries blocks and roundings itself."""

_FOLLOWS = {"host", "port", "triton", "exit_timeout", "connection_age"}
"""Fields of `GatewayConfig` that `ServeConfig` has its own for."""
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#\s@]+")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _choice(name: str, value: str, choices: object) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def _at_least(name: str, value: float, least: float, unit: str = "") -> None:
    # Written so that NaN fails.
    if not value >= least or math.isinf(value):
        raise ConfigError(f"{name} must be at least {least}{unit and ' ' + unit}, got {value}")


def _whole(name: str, value: object, least: int, unit: str = "") -> None:
    # Settings of an engine come from JSON, too.
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    _at_least(name, value, least, unit)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """How to read a checkpoint and turn it into ONNX."""

    method: Method = "auto"
    """`fused`: written straight from the weights, for the families of `convert.fused`; `traced`: through `torch.onnx`;
    `auto`: fused where the family allows it."""
    opset: int = 20
    """ONNX opset, bounded by the ONNX Runtime that serves it."""
    max_context: int | None = None
    """Longest past + new sequence, in tokens; the checkpoint's own limit where None."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    cache_dir: Path | None = None
    """Where a hub id is downloaded to; the Hugging Face cache where None."""
    trust_remote_code: bool = False
    """Whether Python code shipped inside the checkpoint may run."""
    allow_pickle: bool = False
    """Whether `pytorch_model.bin` may be read where there is no safetensors file (weights only, no code is run)."""

    def __post_init__(self) -> None:
        _choice("method", self.method, Method)
        if self.opset not in (20, 21, 22, 23):
            raise ConfigError(f"opset must be 20 to 23, got {self.opset}")
        if self.max_context is not None:
            _at_least("max_context", self.max_context, 2, "tokens")


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """How many bits the weights keep."""

    precision: Quantization = "int8"
    """`int8` and `int4` are weight-only; `dynamic-int8` rounds activations too, row by row, which is faster in batches
    and long prompts; `fp16` and `int4-fp16` are for a GPU; `auto` measures candidates on this machine and takes the
    fastest within `max_quality_loss`."""
    rounding: Rounding = "rtn"
    """How int4 and int8 weights are rounded: to nearest, by half-quadratic scales and zero points (HQQ, needs no data),
    or by GPTQ on calibration text."""
    calibration: Path | None = None
    """Text whose end GPTQ and `sensitive` calibrate on; prose of the Python documentation where None."""
    more_bits: tuple[str, ...] = ()
    """Parts of the names of weights that keep 8 bits in int4, whole words, such as `layers.0` or `down_proj`."""
    sensitive: float = 0.0
    """Percent of the weights that keep 8 bits in int4: those of the products whose outputs suffer most in 4 bits on
    calibration text."""
    symmetric: bool = True
    """Whether levels lie evenly around zero. Else each block has a zero point of its own: in 4 bits 3 to 10 % less
    divergence, but products of one row take 1.28 times as long in blocks of 32, and 1.08 times in blocks of 128."""
    max_quality_loss: float = 0.01
    """Largest relative growth of perplexity that `auto` accepts."""
    block_size: int = 32
    """Weights that share a scale, along the input axis (weight-only). An embedding table takes the largest block up to
    this that its rows are a multiple of."""
    head_bits: Literal[4, 8] = 8
    """Bits that the head and the embedding table keep in `int4`: they cost the most quality, 1.5 % of perplexity in
    4 bits and 0.5 % in 8 on the demo's model."""
    table_bits: Literal[4, 8] | None = None
    """Bits that the embedding table keeps in `int4`; the head's where None. A table that is the head as well is stored
    twice where they differ, and GPTQ then rounds the head like any product. Only the head is read in every step."""

    def __post_init__(self) -> None:
        _choice("quantize", self.precision, Quantization)
        _choice("rounding", self.rounding, Rounding)
        _at_least("max_quality_loss", self.max_quality_loss, 0)
        if not 0 <= self.sensitive <= 100:
            raise ConfigError(f"sensitive must be 0 to 100 percent of the weights, got {self.sensitive}")
        if self.head_bits not in (4, 8):
            raise ConfigError(f"head_bits must be 4 or 8, got {self.head_bits}")
        if self.table_bits not in (None, 4, 8):
            raise ConfigError(f"table_bits must be 4 or 8, got {self.table_bits}")
        if self.block_size not in BLOCK_SIZES:
            raise ConfigError(f"block_size must be 16, 32, 64, 128 or 256, got {self.block_size}")
        self._check_used()

    def _check_used(self) -> None:
        """Refuse an option that would change nothing, since whoever gives it expects otherwise."""
        for name, precisions in _BEARS_ON.items():
            value = getattr(self, name)
            if value != getattr(type(self), name) and self.precision not in precisions:
                raise ConfigError(
                    f"{name} {value!r} changes nothing in {self.precision}, only in {', '.join(precisions)}; leave it "
                    "out, or quantize to another precision"
                )
        if self.calibration and not (self.rounding == "gptq" or self.sensitive or self.precision == "auto"):
            raise ConfigError(
                f"calibration {str(self.calibration)!r}: rounding {self.rounding} reads no text; leave it out, or "
                "round by gptq"
            )


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """What counts as the same model."""

    atol: float = 1e-4
    """Largest |onnx - torch| of a logit, times the root mean square of the reference's logits where that exceeds 1."""
    max_kl: float = 0.02
    """Largest mean KL divergence of the quantized model from fp32 on text, in nats a token (trained models)."""
    max_perplexity_loss: float = 0.02
    """Largest relative growth of perplexity by quantization on text (trained models)."""
    text: Path | Mapping[str, Path] | None = None
    """Text to measure quality on: a file, or several by label (such as their languages), which the report then tells
    apart; prose and code of Python's own where None. An encoder-decoder's has a source, a tab and its answer in each
    line, or sources alone, which fp32 answers; prose as the source where None."""
    tokens: int = 1536
    """Tokens to use, as many of each text."""
    report: Path | None = None
    """Where the report is written as a page whatever the outcome; only into the artifact where None."""

    def __post_init__(self) -> None:
        for name in ("atol", "max_kl", "max_perplexity_loss"):
            _at_least(name, getattr(self, name), 0)
        _at_least("tokens", self.tokens, 16)

    def text_files(self) -> Mapping[str, Path]:
        """Return the files of `text` by label, a single one by its name; none where it is None."""
        if isinstance(self.text, Path):
            return {self.text.name: self.text}
        return self.text or {}


@dataclass(frozen=True, kw_only=True)
class PackageConfig:
    """How the model is named in Triton's repository, and what it can run."""

    name: str = "model"
    """The Triton model's name, part of every URL."""
    version: int = 1
    """The Triton model's version, a folder of that name."""
    throughput: bool = False
    """Whether the repository holds the dynamic-int8 model as well, which `serve --mode throughput` runs."""

    def __post_init__(self) -> None:
        if not _MODEL_NAME.fullmatch(self.name):
            raise ConfigError(
                f"name must be 1 to 128 letters, digits, '.', '_' or '-' and not start with a sign; got {self.name!r}"
            )
        _at_least("version", self.version, 1)
        if self.version >= 2**63:
            raise ConfigError(f"version must fit 64 bits, as Triton reads it, got {self.version}")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much the engine may run at once."""

    max_rows: int = 16
    """Requests that advance together; the others wait."""
    max_context: int | None = None
    """Tokens a row can hold (prompt + answer); the smaller of the model's limit and 4096 where None."""
    cache_memory: int | None = None
    """Bytes that keys and values may take; what `max_rows` and `max_context` come to where None, but at most half of
    the memory that is free once the model is loaded."""
    max_queue: int = 1024
    """Requests that may wait; one more is refused at once."""
    prefill_chunk: int = 64
    """Prompt tokens run between two steps of the running rows."""
    threads: int | None = None
    """ONNX Runtime's threads; the cores this process may use where None."""
    mode: Mode = "deterministic"
    """Which of an artifact's models runs: the one it was exported to serve, or the dynamic-int8 one that
    `export --throughput` adds: faster in batches and prefill, and rounded more, activations included. In both a
    request's tokens are its own, whatever runs beside it; only int4 rounds a row that runs alone in another way."""
    log_requests: bool = False
    """Whether a served model writes a line of JSON on standard error for each request that has ended: its id, tokens,
    times, and how it ended."""
    log_prompts: bool = False
    """Whether those lines hold the prompts as well."""

    def __post_init__(self) -> None:
        _choice("mode", self.mode, Mode)
        for name in ("log_requests", "log_prompts"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.log_prompts and not self.log_requests:
            raise ConfigError(
                "log_prompts is true, but log_requests is not; set both, or neither (--log-requests --log-prompts)"
            )
        for name in ("max_rows", "max_queue", "prefill_chunk"):
            _whole(name, getattr(self, name), 1)
        if self.max_context is not None:
            _whole("max_context", self.max_context, 2, "tokens")
        if self.cache_memory is not None:
            _whole("cache_memory", self.cache_memory, 1, "byte")
        if self.threads is not None:
            _whole("threads", self.threads, 1)


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """Where the OpenAI gateway listens, whom it lets in, and how much it takes from them."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 9000
    """Port to listen on; 0 takes a free one."""
    triton: str = "localhost:8001"
    """Triton's gRPC endpoint, in any of the spellings that `deploykit.client` takes."""
    api_keys: Path | None = None
    """File with one key a line, `KEY` or `NAME:KEY`; those of the environment variable DEPLOYKIT_API_KEYS count, too.
    With neither, everybody is let in."""
    metrics: MetricsAccess = "key"
    """Who may read `/metrics`: whoever has a key (everybody where there are no keys), everybody, or nobody."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call from a browser, such as `https://chat.example.com`; `*` is all of them."""
    max_body: int = 2 * 2**20
    """Bytes of a request's body."""
    max_requests: int = 1024
    """Requests that may be open; one more is refused at once."""
    body_timeout: float = 30.0
    """Seconds that a caller may take to send a request, head and body each, or to take in what waits for it."""
    timeout: float = 600.0
    """Seconds until a whole answer must be there."""
    exit_timeout: float = 30.0
    """Seconds that open streams get to finish at shutdown."""
    connection_age: float | None = None
    """Seconds after which an answer ends its connection; never where None. See `ServeConfig.connection_age`."""
    log_requests: bool = True
    """Whether each request that has ended is a line of the log; those that failed always are."""
    log_prompts: bool = False
    """Whether prompts stand in the log."""

    def __post_init__(self) -> None:
        _choice("metrics", self.metrics, MetricsAccess)
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be 0 to 65535, got {self.port}")
        _whole("max_body", self.max_body, 1024, "bytes")
        _whole("max_requests", self.max_requests, 1)
        _at_least("exit_timeout", self.exit_timeout, 1, "s")
        for name in ("body_timeout", "timeout"):
            _at_least(name, getattr(self, name), 0.1, "s")
        if self.connection_age is not None:
            _at_least("connection_age", self.connection_age, 0.5, "s")
        if self.triton.partition(":")[0].lower() in ("http", "https"):
            raise ConfigError(f"triton {self.triton!r} is an HTTP endpoint; name Triton's gRPC endpoint: HOST:PORT")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"cors_origins: {origin!r} is no origin; write SCHEME://HOST[:PORT], or * for all")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where the local Triton listens and when it counts as dead."""

    host: str = "127.0.0.1"
    """Address of every port."""
    http_port: int = 8000
    """Triton's HTTP endpoint; 0 takes a free port."""
    grpc_port: int = 8001
    """Triton's gRPC endpoint; 0 takes a free port."""
    metrics_port: int = 8002
    """Triton's Prometheus metrics; 0 takes a free port."""
    health_port: int = 8003
    """Liveness and readiness of the whole, answered by `deploykit serve` itself; 0 takes a free port."""
    openai_port: int | None = None
    """OpenAI's API, answered by a gateway beside Triton; 0 takes a free port, and None starts no gateway."""
    startup_timeout: float = 300.0
    """Seconds until the models must be ready."""
    heartbeat_timeout: float = 30.0
    """Seconds without a heartbeat of an engine after which its backend is restarted."""
    exit_timeout: float = 30.0
    """Seconds that open streams get to finish at shutdown."""
    connection_age: float | None = None
    """Seconds after which callers are asked to connect anew, their open streams untouched; never where None. Behind a
    balancer, whoever keeps a connection would otherwise stay with one server, to its end and beyond."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `EngineConfig` for the engine of each model, in place of what its `config.pbtxt` says."""
    gateway: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `GatewayConfig` for the gateway, such as `api_keys`, but for where it listens, whom it asks and how it
    ends: those follow from the fields above."""

    def __post_init__(self) -> None:
        if wrong := sorted(set(self.gateway) - ({each.name for each in fields(GatewayConfig)} - _FOLLOWS)):
            raise ConfigError(f"gateway has no setting {', '.join(wrong)}; see GatewayConfig")
        GatewayConfig(**self.gateway)
        if unknown := sorted(set(self.engine) - {each.name for each in fields(EngineConfig)}):
            raise ConfigError(f"engine has no setting {', '.join(unknown)}; see EngineConfig")
        EngineConfig(**self.engine)
        for name in ("http_port", "grpc_port", "metrics_port", "health_port", "openai_port"):
            if not 0 <= (getattr(self, name) or 0) <= 65535:
                raise ConfigError(f"{name} must be 0 to 65535, got {getattr(self, name)}")
        for name in ("startup_timeout", "heartbeat_timeout", "exit_timeout"):
            _at_least(name, getattr(self, name), 1, "s")
        if self.connection_age is not None:
            _at_least("connection_age", self.connection_age, 0.5, "s")
