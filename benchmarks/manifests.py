"""Proof that checkov finds nothing in what `deploykit deploy` writes, in any overlay, nor in the Dockerfiles.

python benchmarks/manifests.py
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from peers import environment
from results import keep, kept

from deploykit.deploy import deploy
from deploykit.deploy.config import DeployConfig

ROOT = Path(__file__).parent.parent
IMAGE = f"registry.example.com/team/writer@sha256:{'1' * 64}"
DEPLOYMENTS = {
    "plain": DeployConfig(image=IMAGE),
    "everything, S3 and KEDA": DeployConfig(
        image=IMAGE, delivery="s3", source="s3://models/writer", scaling="keda", monitoring=True, gateway=True,
        gpu_product="NVIDIA-L4", runtime_class="nvidia",
    ),
    "everything, a claim and HPA": DeployConfig(
        image=IMAGE, delivery="pvc", source="models", scaling="hpa", monitoring=True, gateway=True, namespace="writers"
    ),
    "an image volume": DeployConfig(image=IMAGE, delivery="volume", source=IMAGE, gateway=True),
}  # fmt: skip
SKIPPED = {"openshift": {"CKV_K8S_40"}}
"""Checks that can't apply, by overlay: OpenShift chooses the user's ID itself. The manifests say so, too."""


def main() -> None:
    checkov = environment("checkov") / "checkov"
    figures: dict[str, object] = {}
    with TemporaryDirectory() as folder:
        for index, (name, config) in enumerate(DEPLOYMENTS.items()):
            written = deploy(ROOT / "model_repository", Path(folder) / str(index), config).path
            for overlay in sorted((written / "overlays").iterdir()):
                figures[f"{name}: {overlay.name}"] = found = scan(checkov, overlay)
                print(f"{found['passed']:4d} passed, {found['skipped']} skipped  {name}: {overlay.name}")
    for file in sorted((ROOT / "docker").rglob("Dockerfile")):
        name = str(file.relative_to(ROOT))
        figures[name] = found = scan_dockerfile(checkov, file)
        print(f"{found['passed']:4d} passed, {found['skipped']} skipped  {name}")
    keep("manifests", {**kept("manifests"), "checkov": figures})


def scan_dockerfile(checkov: Path, file: Path) -> dict[str, int]:
    """Return checkov's counts for a Dockerfile, which must have no failure."""
    report = reported(checkov, "--file", str(file), "--framework", "dockerfile")
    summary, failed = report["summary"], [each["check_id"] for each in report["results"]["failed_checks"]]
    if (summary["failed"], summary["parsing_errors"]) != (0, 0) or not summary["passed"]:
        sys.exit(f"{file}: {summary}: {'; '.join(failed)}")
    return {"passed": summary["passed"], "skipped": summary["skipped"]}


def reported(checkov: Path, *arguments: str) -> dict[str, Any]:
    """Return what checkov says of some files, which it reads without the network."""
    command = [str(checkov), *arguments, "--compact", "--skip-download", "-o", "json"]
    report: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    return report


def scan(checkov: Path, overlay: Path) -> dict[str, int]:
    """Return checkov's counts for an overlay, which must have no failure; what it couldn't read counts as one."""
    built = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=True).stdout
    rendered = overlay / "rendered"
    rendered.mkdir()
    (rendered / "all.yaml").write_text(built)
    report = reported(checkov, "-d", str(rendered), "--framework", "kubernetes")
    summary, results = report["summary"], report["results"]
    failed = [f"{each['check_id']} {each['check_name']}: {each['resource']}" for each in results["failed_checks"]]
    skipped = {each["check_id"] for each in results["skipped_checks"]}
    # It exits with 0 where it can't parse, so its count is held to ours: each object, and the Deployment's pod.
    objects = len(list(yaml.safe_load_all(built)))
    expected = (0, 0, objects + 1, SKIPPED.get(overlay.name, set()))
    if (summary["failed"], summary["parsing_errors"], summary["resource_count"], skipped) != expected:
        sys.exit(f"{overlay}: {summary}, {objects} objects, skipped {sorted(skipped)}: {'; '.join(failed)}")
    return {"passed": summary["passed"], "skipped": summary["skipped"], "resources": summary["resource_count"]}


if __name__ == "__main__":
    main()
