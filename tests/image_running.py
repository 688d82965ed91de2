"""Runs an image as a cluster's node does: alone, on a root that nobody writes to, without a capability."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from image_building import Image

# $1 is the root, $2 what lies at /models ("" for what the image has there), $3 a Python of this machine.
_PREPARE: Final = """
set -eu
root=$1 models=$2 python=$3
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
if [ -n "$models" ]; then
    mount --bind "$models" "$root/models"
    mount -o remount,bind,ro "$root/models"
fi
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/tmp"
# Up: SIOCSIFFLAGS with IFF_UP | IFF_RUNNING.
"$python" -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x41))'
exec chroot "$root" "$@"
"""

_STREAM: Final = """
import json, sys, time
from deploykit.client import Client, ClientError
end = time.monotonic() + 60
with Client("127.0.0.1:8001", timeout=10) as client:
    while True:
        try:
            chunks = list(client.generate("def ", max_tokens=16, stream=True))
            break
        except ClientError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
print(json.dumps({"chunks": len(chunks), "tokens": chunks[-1].num_output_tokens}))
"""


@dataclass(frozen=True, kw_only=True)
class Container:
    """A running container, and its process 1 as this machine sees it."""

    process: "subprocess.Popen[str]"
    pid: int
    environment: tuple[str, ...]
    health: tuple[str, ...]
    user: tuple[int, int]

    def stream(self) -> dict[str, int]:
        """Return how many pieces and tokens a client got in the container's own network, as soon as it serves."""
        return dict(json.loads(self._inside(("--net",), (sys.executable, "-c", _STREAM))))

    def is_healthy(self) -> bool:
        """Return what the image's own health check finds."""
        try:
            self.run(*self.health)
        except subprocess.CalledProcessError:
            return False
        return True

    def run(self, *command: str) -> str:
        """Return what a command prints in the container, as its user."""
        user, group = self.user
        everywhere = ("--mount", "--pid", "--net", "--ipc", "--root", f"--setuid={user}", f"--setgid={group}")
        return self._inside(everywhere, ("/usr/bin/env", "-i", *self.environment, *command))

    def status(self) -> dict[str, str]:
        """Return what the kernel says of process 1."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def end(self, timeout: float) -> int:
        """Send SIGTERM and return the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(timeout)

    def _inside(self, namespaces: Sequence[str], command: Sequence[str]) -> str:
        entering = ["nsenter", f"--target={self.pid}", *namespaces, "--", *command]
        return subprocess.run(entering, check=True, capture_output=True, text=True, timeout=120).stdout


@contextmanager
def running(
    image: Image, *, models: Path | None, user: tuple[int, int], arguments: Sequence[str] = ()
) -> Iterator[Container]:
    """Give a container of an image: its entry point, with its own arguments unless others are given."""
    config = image.config()
    with image.files() as root:
        if models:
            (root / "models").mkdir()
        command = [*_user(user), *config["Entrypoint"], *(arguments or config["Cmd"])]
        environment = tuple(config["Env"])
        inside = ["/usr/bin/env", "-i", "-C", config["WorkingDir"], *environment, *command]
        spaces = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        prepare = ["sh", "-c", _PREPARE, "prepare", str(root), str(models or ""), sys.executable]
        with subprocess.Popen(["unshare", *spaces, *prepare, *inside], text=True, start_new_session=True) as process:
            pid = _child(process.pid)
            try:
                yield Container(
                    process=process,
                    pid=pid,
                    environment=environment,
                    health=tuple(_health(config)),
                    user=user,
                )
            finally:
                # Whoever becomes another user is no longer ended with its parent, so --kill-child is not enough.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                process.kill()


def _user(user: tuple[int, int]) -> list[str]:
    """Return the command that becomes somebody who can do nothing that root can."""
    ids = [f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups"]
    return ["/usr/bin/setpriv", *ids, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]


def _health(config: dict[str, Any]) -> list[str]:
    kind, *command = config["Healthcheck"]["Test"]
    assert kind == "CMD", "a shell would be needed"
    return [str(each) for each in command]


def _child(parent: int) -> int:
    """Return the one child of a process, as soon as there is one."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    while not (found := children.read_text().split()):
        pass
    return int(found[0])
