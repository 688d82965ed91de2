"""Builds docker/'s images on this machine as root, without a container engine, on bases made of Debian's packages.

No registry is asked: debootstrap makes what stands in for Debian's and Ubuntu's images, and the wheel's Triton, laid
out as in NVIDIA's image, stands in for that one. All else is the Dockerfiles' own: each of their instructions runs.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final

from dockerfiles import bases

ROOT: Final = Path(__file__).parents[1]
CACHE_VARIABLE: Final = "DEPLOYKIT_IMAGE_CACHE"
"""Folder that keeps the base and every layer from one run to the next."""
DEBIAN: Final = "localhost/stand-in/debian"
TRITON: Final = "localhost/stand-in/tritonserver"
COMPILER: Final = "usr/bin/clang"
TORCH: Final = "opt/tritonserver/backends/pytorch/libtorch.so"
"""What NVIDIA's image has and production must not."""

_SUITE: Final = "bookworm"
# What Debian's own image leaves out, and the lines by which its packages stay out later.
_LEFT_OUT: Final = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")


def missing() -> str | None:
    """Return why images can't be built here, or None."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the images' Triton is for Linux on x86-64"
    if os.geteuid() != 0:
        return "only root may build images without a container engine"
    for program in ("buildah", "debootstrap", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: apt install buildah debootstrap util-linux)"
    return None


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that was built."""

    store: "Store"
    name: str
    seconds: float = 0.0

    def config(self) -> dict[str, Any]:
        """Return what the image says of how it is run."""
        told = json.loads(self.store.run("inspect", "--type", "image", self.name))
        return dict(told["Docker"]["config"])

    def size(self) -> int:
        """Return the bytes of the files in it."""
        with self.files() as root:
            found = {(stat.st_ino, stat.st_size) for path in root.rglob("*") if S_ISREG((stat := path.lstat()).st_mode)}
        return sum(size for _, size in found)

    @contextmanager
    def files(self) -> Iterator[Path]:
        """Give a copy of its root, which may be written to."""
        container = self.store.run("from", "--pull-never", self.name).strip()
        try:
            yield Path(self.store.run("mount", container).strip())
        finally:
            self.store.run("umount", container)
            self.store.run("rm", container)


@dataclass(kw_only=True)
class Store:
    """A folder of images, apart from those of this machine."""

    folder: Path
    _built: dict[str, Image] = field(default_factory=dict)

    def run(self, *arguments: str) -> str:
        """Return what buildah says."""
        places = ("--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"))
        ended = subprocess.run(["buildah", *places, *arguments], capture_output=True, text=True, check=False)
        if ended.returncode:
            raise AssertionError(f"buildah {' '.join(arguments)}:\n{ended.stdout[-8000:]}\n{ended.stderr[-4000:]}")
        return ended.stdout

    def build(self, name: str, dockerfile: Path, context: Path, *options: str) -> Image:
        """Return the image that a Dockerfile makes, in the format that knows health checks; built once."""
        if name not in self._built:
            begin = time.monotonic()
            how = ("--isolation", "chroot", "--format", "docker", "--layers", "--pull-never")
            self.run("build", *how, *options, "--tag", name, "--file", str(dockerfile), str(context))
            self._built[name] = Image(store=self, name=name, seconds=time.monotonic() - begin)
        return self._built[name]

    def import_base(self) -> None:
        """Have what stands in for the distributions' images."""
        if self.run("images", "--quiet", "--filter", f"reference={DEBIAN}").strip():
            return
        container = self.run("from", "scratch").strip()
        self.run("add", "--quiet", container, str(_base_archive(self.folder)), "/")
        self.run("commit", "--quiet", "--format", "docker", container, DEBIAN)
        self.run("rm", container)


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """Give a store with the bases in it: the one that is kept, or one in a folder, which is emptied at the end."""
    kept = os.environ.get(CACHE_VARIABLE)
    store = Store(folder=Path(kept) if kept else folder)
    store.folder.mkdir(parents=True, exist_ok=True)
    store.import_base()
    try:
        yield store
    finally:
        if not kept:
            store.run("rmi", "--all", "--force")


def build_cpu(store: Store) -> Image:
    """Return the small image."""
    return store.build("deploykit-cpu", ROOT / "docker/cpu/Dockerfile", ROOT, "--from", DEBIAN, *_index(store.folder))


def build_production(store: Store) -> Image:
    """Return the production image, on what stands in for NVIDIA's and Ubuntu's."""
    options = ("--target", "triton", "--from", DEBIAN, *_index(store.folder))
    triton = store.build("localhost/stand-in/collected", ROOT / "docker/cpu/Dockerfile", ROOT, *options)
    text = f"""
FROM {triton.name}
RUN mv /collected /opt/tritonserver && echo /opt/tritonserver/lib > /etc/ld.so.conf.d/triton.conf && ldconfig
RUN mkdir -p /{Path(TORCH).parent} && touch /{TORCH} /{COMPILER}
"""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(text)
        store.build(TRITON, Path(folder) / "Dockerfile", Path(folder))
    dockerfile = ROOT / "docker/Dockerfile"
    nvidia, ubuntu = bases(dockerfile)
    contexts = [f"--build-context={nvidia}=container-image://{TRITON}"]
    contexts += [f"--build-context={ubuntu}=container-image://{DEBIAN}"]
    return store.build("deploykit-production", dockerfile, ROOT, *contexts, *_index(store.folder))


def build_model(store: Store, runtime: Image, context: Path) -> Image:
    """Return an image with the models of a folder in it."""
    (name,) = set(bases(ROOT / "docker/model/Dockerfile"))
    replaced = f"--build-context={name}=container-image://localhost/{runtime.name}"
    return store.build(f"{runtime.name}-model", ROOT / "docker/model/Dockerfile", context, replaced)


def _base_archive(folder: Path) -> Path:
    root, archive = folder / "debian", folder / "debian.tar"
    if not archive.exists():
        made = ["debootstrap", "--variant=minbase", _SUITE, str(root)]
        subprocess.run(made, check=True, capture_output=True)
        _slim(root)
        draft = archive.with_suffix(".part")
        subprocess.run(["tar", "-C", str(root), "-cf", str(draft), "."], check=True)
        draft.rename(archive)
        shutil.rmtree(root)
    return archive


def _slim(root: Path) -> None:
    """Make of an installation what Debian's slim image is."""
    for each in _LEFT_OUT:
        shutil.rmtree(root / each)
        (root / each).mkdir()
    for file in (*(root / "var/cache/apt/archives").glob("*.deb"), *(root / "var/lib/apt/lists").glob("*_*")):
        file.unlink()
    (root / "etc/dpkg/dpkg.cfg.d/docker").write_text("".join(f"path-exclude /{each}/*\n" for each in _LEFT_OUT))
    sources = root / "etc/apt/sources.list"
    # Debootstrap's own choice: `deb MIRROR SUITE main`.
    mirror = sources.read_text().split()[1]
    sources.write_text(
        f"deb {mirror} {_SUITE} main\n"
        f"deb {mirror} {_SUITE}-updates main\n"
        f"deb {mirror}-security {_SUITE}-security main\n"
    )
    # A mirror may be a copy of another day.
    (root / "etc/apt/apt.conf.d/99copy").write_text(
        'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n'
    )


def _index(folder: Path) -> tuple[str, ...]:
    """Return options that have pip reach the package index as it does here; nothing of it stays in an image."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings: dict[str, str] = {}
    for line in told.stdout.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'")
    lines = [f"{name} = {settings[name]}" for name in ("index-url", "trusted-host", "proxy") if name in settings]
    secrets = []
    if certificate := settings.get("cert"):
        lines.append("cert = /etc/pip.crt")
        secrets.append(f"--secret=id=pip.crt,src={certificate}")
    file = folder / "pip.conf"
    file.write_text("\n".join(["[global]", "timeout = 180", *lines, ""]))
    return (f"--secret=id=pip.conf,src={file}", *secrets)
