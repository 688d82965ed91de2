"""What a container runs, where its command line says so: `deploykit serve`, `gateway` or `pull`, or `tritonserver`."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

import deploykit.deploy.check.flags as flags
from deploykit.config import EngineConfig, GatewayConfig, ServeConfig
from deploykit.deploy.check.manifests import Container, mapping, sequence
from deploykit.deploy.check.options import Option, Problem, Reading
from deploykit.deploy.check.words import Word, is_known, words

Kind = Literal["serve", "gateway", "pull", "tritonserver"]

_TRITON: Final = ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/*")
_HEALTH: Final = ("/v2/health/live", "/v2/health/ready")
_OPEN: Final = ("/health", "/health/live")
_GUARDED: Final = ("/v1/models", "/v1/models/*", "/openapi.json")
_KEYS: Final = "DEPLOYKIT_API_KEYS"
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - where Triton listens unless it is told otherwise
_TRITON_PORTS: Final = {"http": 8000, "grpc": 8001, "metrics": 8002}
_TRITON_EXIT_TIMEOUT: Final = 30
"""`tritonserver --help`, --exit-timeout-secs."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """What a command line makes its process do, defaults included."""

    kind: Kind
    hosts: Mapping[str, str] = default(default_factory=dict)
    """Address of each port, by the port's name."""
    ports: Mapping[str, int] = default(default_factory=dict)
    """`http`, `grpc`, `metrics`, `health` and `openai`, as far as it listens there; 0 is a free port. One that comes
    from a variable that isn't known is left out."""
    paths: Mapping[str, tuple[str, ...]] = default(default_factory=dict)
    """Paths that answer GET, by the port's name, as patterns of `fnmatch`; none for gRPC."""
    guarded: frozenset[str] = frozenset()
    """Those of them that want an API key."""
    exit_timeout: float | None = None
    """Seconds that it takes at most after SIGTERM."""
    startup_timeout: float | None = None
    """Seconds after which it gives up the start."""
    heartbeat_timeout: float | None = None
    engine: EngineConfig | None = None
    """Rows, context, cache memory and threads of `serve`, as far as its flags say."""
    models: tuple[str, ...] = ()
    """Folders that it reads models from; for `pull` where they come from."""
    output: str | None = None
    """Where `pull` writes."""
    triton: str | None = None
    """The gRPC endpoint that `gateway` asks."""
    options: Mapping[str, Option] = default(default_factory=dict)
    """The flags that were given."""
    problems: tuple[Problem, ...] = ()
    """What the command would refuse."""

    def field(self, flag: str) -> str:
        """Return where a flag stands below the container, `args` where it isn't given."""
        return self.options[flag].field if flag in self.options else "args"

    def answers(self, port: str, path: str) -> bool:
        """Return whether GET of a path on one of its ports, by name, may answer 200."""
        return any(fnmatchcase(path.partition("?")[0], pattern) for pattern in self.paths.get(port, ()))


def parse(container: Container) -> Server | None:
    """Return what a container runs; None where its command line doesn't say, or says something else."""
    given = words(container)
    name = given[0].text.rpartition("/")[2] if given else ""
    verb = given[1].text if len(given) > 1 else ""
    if name == "tritonserver":
        return _triton(given[1:])
    if name == "deploykit" and verb in flags.FLAGS:
        read = Reading(f"deploykit {verb}", flags.FLAGS[verb])
        read.take(given[2:])
        if not read.operands:
            read.refuse("args", "", f"wants {'a source' if verb == 'pull' else 'a folder of models'}", "name one")
        return {"serve": _serve, "gateway": _gateway, "pull": _pull}[verb](read, container)
    return None


def unknown_verb(container: Container) -> Problem | None:
    """Return what is wrong with a command line that calls `deploykit` for something that it can't do."""
    given = words(container)
    if not given or given[0].text.rpartition("/")[2] != "deploykit":
        return None
    verb = given[1] if len(given) > 1 else Word(text="", field=given[0].field)
    if verb.text in flags.VERBS or verb.text.startswith("-") or not is_known(verb.text):
        return None
    near = difflib.get_close_matches(verb.text, flags.VERBS, n=1)
    why = "deploykit has no such command, and ends" if verb.text else "deploykit prints its help, and ends"
    return Problem(field=verb.field, value=verb.text, why=why, remedy=f"write {near[0] if near else 'serve'}")


def _serve(read: Reading, container: Container) -> Server:
    config = read.config(ServeConfig, _settings(read, ServeConfig))
    engine = read.config(EngineConfig, _settings(read, EngineConfig))
    openai = "--openai-port" in read.options
    if openai:
        read.config(GatewayConfig, {k: v for k, v in _settings(read, GatewayConfig).items() if k in flags.ANSWERING})
    elif useless := [flag for flag in read.options if flags.field(flag) in flags.ANSWERING]:
        read.refuse(
            read.options[useless[0]].field, useless[0], "has no gateway to set it for", "add --openai-port=9000"
        )
    names = ("http", "grpc", "metrics", "health", *(("openai",) if openai else ()))
    paths = {"http": _TRITON, "metrics": ("/metrics",), "health": _HEALTH}
    return Server(
        kind="serve",
        hosts=dict.fromkeys(names, config.host) if read.certain("--host") else {},
        ports={name: getattr(config, f"{name}_port") for name in names if read.certain(f"--{name}-port")},
        paths={**paths, "openai": _gateway_paths(read)} if openai else paths,
        guarded=_guarded(read, container) if openai else frozenset(),
        exit_timeout=config.exit_timeout if read.certain("--exit-timeout") else None,
        startup_timeout=config.startup_timeout if read.certain("--startup-timeout") else None,
        heartbeat_timeout=config.heartbeat_timeout if read.certain("--heartbeat-timeout") else None,
        engine=engine,
        models=_texts(read.operands),
        options=read.options,
        problems=tuple(read.problems),
    )


def _gateway(read: Reading, container: Container) -> Server:
    config = read.config(GatewayConfig, _settings(read, GatewayConfig))
    return Server(
        kind="gateway",
        hosts={"openai": config.host} if read.certain("--host") else {},
        ports={"openai": config.port} if read.certain("--port") else {},
        paths={"openai": _gateway_paths(read)},
        guarded=_guarded(read, container),
        exit_timeout=config.exit_timeout if read.certain("--exit-timeout") else None,
        models=_texts(read.operands),
        triton=config.triton if read.certain("--triton") else None,
        options=read.options,
        problems=tuple(read.problems),
    )


def _pull(read: Reading, _container: Container) -> Server:
    output = read.options.get("-o") or read.options.get("--output")
    if output is None:
        read.refuse("args", "", "wants to know where to write", "add -o DIR")
    return Server(
        kind="pull",
        models=_texts(read.operands),
        output=output.value if output else None,
        options=read.options,
        problems=tuple(read.problems),
    )


def _triton(given: Sequence[Word]) -> Server:
    read = Reading("tritonserver", None)
    read.take(given)
    text = {flag: option.text for flag, option in read.options.items()}
    repositories = [flag for flag in ("--model-repository", "--model-store") if flag in text]
    if not repositories:
        read.refuse("args", "", "ends at once without a model repository", "add --model-repository=DIR")
    names = [name for name in _TRITON_PORTS if text.get(f"--allow-{name}", "true").lower() not in ("false", "0")]
    ports = {name: _number(read, f"--{name}-port", _TRITON_PORTS[name]) for name in names}
    # Metrics follow the address of HTTP unless they have their own.
    http = text.get("--http-address", _EVERYWHERE)
    addresses = {
        "http": http,
        "grpc": text.get("--grpc-address", _EVERYWHERE),
        "metrics": text.get("--metrics-address", http),
    }
    return Server(
        kind="tritonserver",
        hosts={name: addresses[name] for name in names if is_known(addresses[name])},
        ports={name: port for name, port in ports.items() if port is not None},
        paths={name: paths for name, paths in {"http": _TRITON, "metrics": ("/metrics",)}.items() if name in names},
        exit_timeout=_number(read, "--exit-timeout-secs", _TRITON_EXIT_TIMEOUT),
        models=tuple(text[flag] for flag in repositories),
        options=read.options,
        problems=tuple(read.problems),
    )


def _number(read: Reading, flag: str, otherwise: int) -> int | None:
    """Return the number that Triton reads from an option, None where it can't be known."""
    if flag not in read.options:
        return otherwise
    option = read.options[flag]
    if option.text.isascii() and option.text.isdigit():
        return int(option.text)
    if is_known(option.text):
        read.refuse(option.field, option.text, f"wants a whole number for {flag}", f"write {flag}={otherwise}")
    return None


def _settings(read: Reading, config: type[EngineConfig | GatewayConfig | ServeConfig]) -> dict[str, Any]:
    """Return the fields of a configuration that the flags set."""
    fields = config.__dataclass_fields__
    found: dict[str, Any] = {}
    for flag, option in read.options.items():
        name = flags.field(flag)
        if name in fields and option.value is not None:
            value = not flag.startswith("--no-") if option.value is True else option.value
            found[name] = (value,) if name == "cors_origins" else value
    return found


def _texts(operands: Sequence[Word]) -> tuple[str, ...]:
    return tuple(word.text for word in operands if is_known(word.text))


def _gateway_paths(read: Reading) -> tuple[str, ...]:
    off = read.options["--metrics-access"].value == "off" if "--metrics-access" in read.options else False
    return (*_OPEN, *_GUARDED, *(() if off else ("/metrics",)))


def _guarded(read: Reading, container: Container) -> frozenset[str]:
    """Return the paths that want a key, none where there are no keys for all that can be seen."""
    variables = [mapping(entry).get("name") for entry in sequence(container.body.get("env"))]
    if "--api-keys" not in read.options and _KEYS not in variables and not container.body.get("envFrom"):
        return frozenset()
    access = read.options["--metrics-access"].value if "--metrics-access" in read.options else GatewayConfig.metrics
    return frozenset((*_GUARDED, *(("/metrics",) if access == "key" else ())))
