import functools
import http.server
import json
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploykit.deploy.check import Checked, check
from deploykit.errors import ConfigError

pytestmark = pytest.mark.skipif(
    not (shutil.which("kubectl") or shutil.which("kustomize")), reason="neither kubectl nor kustomize is on PATH"
)

SERVICE: dict[str, Any] = {
    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
    "spec": {"ports": [{"name": "http", "port": 80}]},
}  # fmt: skip
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
    "spec": {
        "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "example.com/web:1"}]},
        },
    },
}  # fmt: skip
COMPONENT: dict[str, Any] = {"kind": "Component", "apiVersion": "kustomize.config.k8s.io/v1alpha1"}
OVERLAY: dict[str, Any] = {"resources": ["../../base"]}


def tree(folder: Path, **files: Any) -> Path:
    """Write a base and an overlay, some files replaced or added: `__` in a name is a slash, `_yaml` is `.yaml`."""
    there = {
        "base/kustomization.yaml": {"resources": ["service.yaml", "deployment.yaml"]},
        "base/service.yaml": SERVICE,
        "base/deployment.yaml": DEPLOYMENT,
        "overlays/two/kustomization.yaml": OVERLAY,
        **{name.replace("__", "/").replace("_yaml", ".yaml"): body for name, body in files.items()},
    }
    for name, body in there.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body if isinstance(body, str) else yaml.safe_dump(body))
    return folder


def rules(checked: Checked) -> list[str]:
    return [each.rule for each in checked.findings]


def test_renders_what_would_be_applied_and_tells_once_what_overlays_share(tmp_path: Path) -> None:
    broken = {**SERVICE, "spec": {"ports": [{"name": "http", "prt": 80, "port": 80}]}}
    checked = check([tree(tmp_path, base__service_yaml=broken, overlays__one__kustomization_yaml=OVERLAY)])
    assert [source.rpartition("/")[2] for source in checked.sources] == ["one", "two"]
    assert rules(checked) == ["unknown-field"]
    assert "overlays/one" in checked.findings[0].source
    assert "overlays/two" in checked.findings[0].source
    assert checked.objects == 2


def test_names_the_one_overlay_that_has_a_mistake(tmp_path: Path) -> None:
    patch = "- op: add\n  path: /spec/replcas\n  value: 2\n"
    overlay = {**OVERLAY, "patches": [{"target": {"kind": "Deployment", "name": "web"}, "patch": patch}]}
    files = {"overlays__one__kustomization_yaml": OVERLAY, "overlays__two__kustomization_yaml": overlay}
    found = check([tree(tmp_path, **files)]).findings
    assert [each.rule for each in found] == ["unknown-field"]
    assert found[0].source.endswith("overlays/two")


def test_a_correct_tree_has_no_findings(tmp_path: Path) -> None:
    assert check([tree(tmp_path)]).findings == ()
    assert check([tmp_path / "overlays" / "two"]).findings == ()


@pytest.mark.parametrize(
    ("rule", "files", "said"),
    [
        ("unnamed-file", {"base__extra_yaml": {**SERVICE, "metadata": {"name": "x"}}}, "extra.yaml"),
        ("unused-component", {"components__c__kustomization_yaml": COMPONENT}, "uses this component"),
        ("entry-twice", {"base__kustomization_yaml": {"resources": ["service.yaml", "service.yaml"]}}, "already"),
        ("kustomize", {"base__kustomization_yaml": {"resources": ["gone.yaml"]}}, "gone.yaml"),
        ("kustomize", {"base__kustomization_yaml": {"resource": ["service.yaml"]}}, "refuses it"),
        ("deprecated-field", {"overlays__two__kustomization_yaml": {**OVERLAY, "commonLabels": {"a": "b"}}}, "labels"),
        ("patch-without-target", {"overlays__two__kustomization_yaml": {**OVERLAY, "patches": [
            {"target": {"kind": "Deployment", "name": "wbe"}, "patch": "- {op: remove, path: /spec/replicas}"}]}},
         "Deployment/web"),
        ("image-without-container", {"overlays__two__kustomization_yaml": {**OVERLAY, "images": [
            {"name": "example.com/wbe", "newTag": "2"}]}}, "write example.com/web"),
        ("unreadable", {"overlays__two__kustomization_yaml": "resources: [\n"}, "did not find"),
        ("field-twice", {"overlays__two__kustomization_yaml": "resources: []\nresources: [../../base]\n"}, "twice"),
    ],
)  # fmt: skip
def test_finds_what_kustomize_passes_over_or_refuses(
    tmp_path: Path, rule: str, files: dict[str, Any], said: str
) -> None:
    found = [each for each in check([tree(tmp_path, **files)]).findings if each.rule == rule]
    assert found
    assert said in f"{found[0].value} {found[0].why}; {found[0].remedy}"
    assert "\n" not in found[0].line()


@pytest.mark.parametrize(
    "overlay",
    [
        {**OVERLAY, "images": [{"name": "example.com/web", "newTag": "2"}]},
        {**OVERLAY, "patches": [{"target": {"kind": "Deploy.*"}, "patch": "- {op: remove, path: /spec/replicas}"}]},
        {**OVERLAY, "namePrefix": "a-", "patches": [{"target": {"kind": "Deployment", "name": "web"},
                                                     "patch": "- {op: remove, path: /spec/replicas}"}]},
    ],
)  # fmt: skip
def test_leaves_correct_kustomizations_alone(tmp_path: Path, overlay: dict[str, Any]) -> None:
    assert check([tree(tmp_path, overlays__two__kustomization_yaml=overlay)]).findings == ()


def test_plain_files_are_applied_beside_each_overlay(tmp_path: Path) -> None:
    pod = DEPLOYMENT["spec"]["template"]["spec"] | {"imagePullSecrets": [{"name": "registry"}]}
    spec = DEPLOYMENT["spec"] | {"template": DEPLOYMENT["spec"]["template"] | {"spec": pod}}
    folder = tree(tmp_path / "k", base__deployment_yaml=DEPLOYMENT | {"spec": spec})
    secret = tmp_path / "secret.yaml"
    secret.write_text("apiVersion: v1\nkind: Secret\nmetadata: {name: registry}\nstringData: {a: b}\n")
    assert rules(check([folder])) == ["missing-object"]
    assert rules(check([folder, secret])) == []


def test_says_in_a_line_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="neither is on PATH"):
        check([tree(tmp_path / "k")])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resources", ["ADDRESS/x.yaml"]),
        ("Resources", ["ADDRESS/x.yaml"]),
        ("resources", ["ADDRESS/x.yaml\n"]),
        ("bases", ["git::ADDRESS/repository"]),
        ("components", ["git@127.0.0.1:group/repository"]),
        ("resources", ["github.com/group/repository"]),
        ("resources", ["example.com/group/repository"]),
        ("resources", ["../x?ref=v1"]),
        ("crds", ["ADDRESS/x.json"]),
        ("openapi", {"path": "ADDRESS/x.json"}),
        ("patches", [{"path": "ADDRESS/x.yaml"}]),
        ("configMapGenerator", [{"name": "a", "files": ["a=ADDRESS/x"]}]),
        ("transformers", ["ADDRESS/x.yaml"]),
    ],
)
def test_nothing_is_fetched(tmp_path: Path, field: str, value: object) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        body = json.loads(json.dumps({field: value}).replace("ADDRESS", address))
        checked = check([tree(tmp_path, base__kustomization_yaml={"resources": ["service.yaml"], **body})])
        with pytest.raises(TimeoutError):
            server.accept()
    found = [each for each in checked.findings if each.rule == "remote-base"]
    assert len(found) == 1
    assert found[0].level == "error"
    assert found[0].field.startswith(field.lower() if field == "Resources" else field)
    assert "--remote" in found[0].remedy


def test_what_is_trusted_may_be_fetched(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "x.yaml").write_text(yaml.safe_dump({**SERVICE, "metadata": {"name": "far"}}))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            base = {"resources": ["service.yaml", f"http://127.0.0.1:{server.server_port}/x.yaml"]}
            checked = check([tree(tmp_path / "k", base__kustomization_yaml=base)], remote=True)
        finally:
            server.shutdown()
    assert "remote-base" not in rules(checked)
    assert checked.objects == 2


def test_a_folder_that_looks_like_a_host_is_here(tmp_path: Path) -> None:
    folder = "example.com/group/repository"
    files = {f"base/{folder}/kustomization.yaml": {"resources": ["s.yaml"]}, f"base/{folder}/s.yaml": SERVICE}
    checked = check([tree(tmp_path, base__kustomization_yaml={"resources": [folder]}, **files)])
    assert (checked.errors, checked.objects) == (0, 1)


def test_kustomizes_reason_is_shown_without_the_logs_prefix(tmp_path: Path) -> None:
    name = "/".join(["long"] * 60) + "/nothing.yaml"
    checked = check([tree(tmp_path, base__kustomization_yaml={"resources": [name]})])
    (found,) = (each for each in checked.findings if each.rule == "kustomize")
    assert found.why.startswith("kustomize refuses it: accumulating resources")
    assert found.why.endswith("no such file or directory")
    assert "run.go" not in found.why
    assert '\\"' not in found.why
