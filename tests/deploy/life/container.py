"""Runs a container's own command line on this machine, as strictly as this user may.

As root, the command is process 1 of a process namespace, runs as the manifest's user without capabilities, and sees the
pod's volumes where the manifest mounts them and a root that nobody writes to. What can't be as in a cluster stands in
`Sandbox.here`, and nowhere else.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

MODELS: Final = "/models"
USER: Final = 10001
"""Who runs a container where the manifest leaves that to the cluster."""
_ASIDE: Final = "/mnt"
"""Where a mount path that this machine doesn't have appears; only in the container's own mount namespace."""
_EVERYWHERE: Final = ("/tmp", "/dev/shm")
"""Mount paths that every machine has."""
_UNITS: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def is_strict() -> bool:
    """Whether this user may make namespaces and be somebody else in them."""
    wanted = ("unshare", "nsenter", "setpriv", "mount")
    return os.geteuid() == 0 and all(map(shutil.which, wanted)) and _unshares()


def _unshares() -> bool:
    tried = ["unshare", "--pid", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", _ASIDE]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """Where the containers of one pod run."""

    address: str
    """The pod's own; each has one of 127.0.0.0/8, so that ports stay those of the manifest."""
    models: Path
    """What lies at /models."""
    folder: Path
    """Where volumes and logs are kept."""
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    strict: bool = True

    def prepare(self, pod: Mapping[str, Any]) -> None:
        """Make the pod's volumes, with the owners and modes that a kubelet gives them, and fill those of Secrets."""
        group = pod.get("securityContext", {}).get("fsGroup", 0)
        for volume in pod.get("volumes", []):
            folder, secret = self._volume(volume["name"]), volume.get("secret", {})
            folder.chmod(0o755 if secret else 0o777)
            for item in secret.get("items", []):
                file = folder / item["path"]
                file.write_text(self.secrets[secret["secretName"]][item["key"]])
                file.chmod(secret["defaultMode"])
                if self.strict:
                    os.chown(file, 0, group)

    def here(self, text: str, container: Mapping[str, Any]) -> str:
        """Return an argument or a value of the environment as it has to be on this machine.

        A pod listens on all addresses of its own network, and reaches itself as localhost; here all pods share one
        network, and each has an address. Paths that this machine doesn't have are somewhere else.
        """
        text = re.sub(r"(?<![^=])(0\.0\.0\.0|localhost)(?=:|$)", self.address, text)
        for path, place in self._places(container).items():
            text = re.sub(rf"(?<![^=]){re.escape(path)}(?=/|$)", place, text)
        return text

    def _places(self, container: Mapping[str, Any]) -> dict[str, str]:
        """Return where paths of the container lie here, those that are somewhere else."""
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        if self.strict:
            return {path: f"{_ASIDE}{path}" for path in {MODELS, *mounts} - set(_EVERYWHERE)}
        own = {path: str(self._volume(name)) for path, name in mounts.items()}
        return {**own, MODELS: str(self.models)}

    def command(self, pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
        """Return what runs a container's command."""
        words = [self.here(word, container) for word in [*container["command"], *container.get("args", [])]]
        if not self.strict:
            return words
        steps = [shlex.join(step) for step in self._mounts(pod, container)]
        script = "set -e\n" + "\n".join(steps) + '\nexec "$@"\n'
        alone = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*alone, "sh", "-c", script, "sh", *_as_user(pod, container), *words]

    def entering(self, pod: Mapping[str, Any], container: Mapping[str, Any], pid: int, words: list[str]) -> list[str]:
        """Return what runs a command inside a container whose first process is `pid`."""
        if not self.strict:
            return words
        return ["nsenter", f"--target={pid}", "--pid", "--mount", "--", *_as_user(pod, container), *words]

    def environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        """Return a container's environment: that of the image, and the manifest's own."""
        given = {each["name"]: self.here(self._value(each), container) for each in container.get("env", [])}
        # Of the tests' environment only this: threads that spin would cost the others tenfold here.
        quiet = {name: os.environ[name] for name in ("OMP_WAIT_POLICY",) if name in os.environ}
        folders = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        somewhere = {} if self.strict else {"TMPDIR": str(self._volume("tmp"))}
        return {"PATH": os.pathsep.join(folders), **quiet, **somewhere, **given}

    def _value(self, variable: Mapping[str, Any]) -> str:
        if "value" in variable:
            return str(variable["value"])
        source = variable["valueFrom"]
        if "secretKeyRef" in source:
            wanted = source["secretKeyRef"]
            return self.secrets[wanted["name"]][wanted["key"]]
        assert source["fieldRef"]["fieldPath"] == "status.podIP", f"nothing here knows {source}"
        return self.address

    def _volume(self, name: str) -> Path:
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _mounts(self, pod: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[list[str]]:
        """Yield the commands that put the volumes where they belong, the model among them, and close the root."""
        yield ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", _ASIDE]
        yield from self._bind(self.models, f"{_ASIDE}{MODELS}", read_only=True)
        yield from _reachable(Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[3] / "deploykit")
        volumes = {each["name"]: each for each in pod.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            yield from self._mount(volumes[mount["name"]], mount["mountPath"])
        if container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            yield ["mount", "-o", "remount,bind,ro", "/"]
        yield ["cd", container.get("workingDir", "/")]

    def _mount(self, volume: Mapping[str, Any], path: str) -> Iterator[list[str]]:
        options = volume.get("emptyDir", {})
        if path == MODELS:
            return
        if options.get("medium") == "Memory":
            yield ["mount", "-t", "tmpfs", "-o", f"mode=1777,size={_bytes(options['sizeLimit'])}", "tmpfs", path]
        elif path in _EVERYWHERE:
            yield ["mount", "--bind", str(self._volume(volume["name"])), path]
        else:
            yield from self._bind(self._volume(volume["name"]), f"{_ASIDE}{path}", read_only="secret" in volume)

    @staticmethod
    def _bind(source: Path, target: str, *, read_only: bool = False) -> Iterator[list[str]]:
        yield ["mkdir", "-p", target]
        yield ["mount", "--bind", str(source), target]
        if read_only:
            yield ["mount", "-o", "remount,bind,ro", target]


class ContainerProcess:
    """A container's first process."""

    def __init__(self, sandbox: Sandbox, pod: Mapping[str, Any], container: Mapping[str, Any], log: Path) -> None:
        self._sandbox, self._pod, self._container, self._log = sandbox, pod, container, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                sandbox.command(pod, container),
                env=sandbox.environment(container),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """The first process's id on this machine; None before there is one, and once it has gone."""
        if not self._sandbox.strict:
            return self._process.pid
        outer = self._process.pid
        try:
            inner = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return int(inner[0]) if inner else None

    def status(self) -> int | None:
        """Return the exit status as a container runtime tells it, or None while it runs."""
        return _as_told(self._process.poll())

    def wait(self, seconds: float | None = None) -> int | None:
        """Return the exit status, or None if it still runs after so many seconds."""
        try:
            return _as_told(self._process.wait(seconds))
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the first process."""
        pid = self.pid
        if pid is not None and self.status() is None:
            os.kill(pid, number)

    def run_inside(self, words: list[str], seconds: float) -> None:
        """Run a command in the container to its end, or for so many seconds at most."""
        pid = self.pid
        if pid is None:
            return
        with self._log.open("ab") as output:
            hook = subprocess.Popen(
                self._sandbox.entering(self._pod, self._container, pid, words),
                env=self._sandbox.environment(self._container),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            hook.wait(seconds)
        except subprocess.TimeoutExpired:
            hook.kill()
            hook.wait()

    def end(self) -> None:
        """Leave nothing of it."""
        self.signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()


def _as_told(status: int | None) -> int | None:
    return 128 - status if status is not None and status < 0 else status


def _user(pod: Mapping[str, Any], container: Mapping[str, Any]) -> int:
    context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    return int(context.get("runAsUser", USER))


def _as_user(pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
    """Return what runs a command as a container's user, with nothing that user hasn't."""
    user = str(_user(pod, container))
    nothing = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--clear-groups"]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", *nothing, "--"]


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _UNITS[quantity[-2:]] if quantity[-2:] in _UNITS else int(quantity)


def _reachable(*paths: Path) -> Iterator[list[str]]:
    """Yield commands that let everybody reach what an image would hold, wherever its owner keeps it."""
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & 0o001:
                closed.setdefault(folder, []).append(path)
                break
    for number, (folder, inside) in enumerate(closed.items()):
        for place, path in enumerate(inside):
            yield from Sandbox._bind(path, f"{_ASIDE}/kept-{number}-{place}")
        yield ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder)]
        for place, path in enumerate(inside):
            yield from Sandbox._bind(Path(f"{_ASIDE}/kept-{number}-{place}"), str(path))
