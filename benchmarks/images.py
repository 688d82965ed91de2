"""How large the images are and how long they take to build: python benchmarks/images.py (as root, on Debian or Ubuntu).

They are built on stand-ins for the distributions' and NVIDIA's images, as the tests do it; see tests/image_building.py.
With DEPLOYKIT_IMAGE_CACHE the layers are kept, and a build that finds them there says nothing of the time.
"""

import sys
import tempfile
from pathlib import Path

from results import keep

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from image_building import DEBIAN, ROOT, Image, build_cpu, build_model, build_production, missing, opened

PARTS = {
    "triton": "opt/tritonserver",
    "onnxruntime": "opt/deploykit/lib/*/site-packages/onnxruntime",
    "numpy": "opt/deploykit/lib/*/site-packages/numpy*",
    "other packages": "opt/deploykit",
}
"""Where bytes go; a file counts for the first that holds it."""


def measure(image: Image) -> dict[str, object]:
    """Return an image's bytes, whole and by part, and the seconds of its build."""
    counted: set[Path] = set()
    parts = {}
    with image.files() as root:
        for name, pattern in PARTS.items():
            files = {file for folder in root.glob(pattern) for file in folder.rglob("*") if not file.is_symlink()}
            files = {file for file in files if file.is_file()} - counted
            counted |= files
            parts[name] = sum(file.stat().st_size for file in files)
    whole = image.size()
    parts["distribution, Python"] = whole - sum(parts.values())
    return {"bytes": whole, "parts": parts, "seconds": round(image.seconds, 1)}


def main() -> None:
    """Build, measure, keep."""
    if trouble := missing():
        sys.exit(f"error: {trouble}")
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as store:
        cpu = build_cpu(store)
        images = {
            "cpu": cpu,
            "model on cpu": build_model(store, cpu, ROOT),
            "production on a stand-in": build_production(store),
        }
        figures: dict[str, object] = {name: measure(image) for name, image in images.items()}
        figures["base"] = {"bytes": Image(store=store, name=DEBIAN).size()}
    for name, figure in figures.items():
        print(f"{name:<26} {figure}")
    keep("images", figures)


if __name__ == "__main__":
    main()
