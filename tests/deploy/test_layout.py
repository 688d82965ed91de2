"""The files that are written, and what they build to."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from deployments import (
    DIGEST,
    EVERYTHING,
    FACTS,
    IMAGE,
    NAME,
    OVERLAYS,
    Object,
    build,
    container_of,
    containers,
    find,
    pod_of,
    write,
)

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.layout import files
from deploykit.deploy.overlays import CPU_ONLY
from deploykit.deploy.sizing import size_pod

OLDEST, NEWEST = "1.28", "1.37"
CUSTOM = {"ScaledObject", "PodMonitor", "PrometheusRule", "BackendConfig"}
SIX = {f"app.kubernetes.io/{each}" for each in ("name", "instance", "version", "component", "part-of", "managed-by")}
CONFIGS = {
    "plain": DeployConfig(),
    "everything": EVERYTHING,
    "claim": DeployConfig(delivery="pvc", source="models", scaling="hpa", namespace="writers", gateway=True),
    "volume": DeployConfig(delivery="volume", source="registry.example.com/models/writer:3", monitoring=True),
}


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, plain: list[Object], overlays: dict[str, list[Object]]
) -> dict[tuple[str, str], list[Object]]:
    """Every overlay of a deployment with everything, and one of each of the others."""
    others = {name: build(write(tmp_path_factory.mktemp(name), CONFIGS[name])) for name in ("claim", "volume")}
    return (
        {("everything", overlay): objects for overlay, objects in overlays.items()}
        | {("plain", "cpu"): plain}
        | {(name, "cpu"): objects for name, objects in others.items()}
    )


def distinct(built: dict[tuple[str, str], list[Object]], *names: str) -> list[Object]:
    """Return each object once, of some configurations or of all."""
    texts = {json.dumps(each) for (name, _), objects in built.items() if name in (names or CONFIGS) for each in objects}
    return [json.loads(text) for text in sorted(texts)]


def test_the_folder_itself_is_the_overlay_cpu(plain_folder: Path, plain: list[Object]) -> None:
    assert plain == build(plain_folder / "overlays" / "cpu")
    assert plain == build(plain_folder / "base")


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_every_field(built: dict[tuple[str, str], list[Object]], version: str) -> None:
    # Image volumes came with 1.31.
    names = CONFIGS if version == NEWEST else CONFIGS.keys() - {"volume"}
    checked = [each for each in distinct(built, *names) if each["kind"] not in CUSTOM]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A kind or a version of an API that isn't there raises SchemaNotFoundError.
        assert [kubernetes_validate.validate(each, version, strict=True) for each in checked] == [version] * len(
            checked
        )
    assert len(checked) > 25


def test_the_schema_would_notice(built: dict[tuple[str, str], list[Object]]) -> None:
    wrong = find(built["plain", "cpu"], "Deployment") | {"more": 1}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate(wrong | {"apiVersion": "apps/v1beta1"}, NEWEST, strict=True)


def test_every_object_has_the_six_labels_and_a_namespace(built: dict[tuple[str, str], list[Object]]) -> None:
    for (name, _), objects in built.items():
        for each in objects:
            assert each["metadata"]["labels"].keys() >= SIX, each["kind"]
            expected = None if each["kind"] == "Namespace" else CONFIGS[name].namespace or NAME
            assert each["metadata"].get("namespace") == expected, each["kind"]


def test_names_are_labels_and_stand_once(built: dict[tuple[str, str], list[Object]]) -> None:
    for objects in built.values():
        names = [(each["kind"], each["metadata"]["name"]) for each in objects]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name) for _, name in names)


def test_a_namespace_of_ones_own_or_one_that_is_there(built: dict[tuple[str, str], list[Object]]) -> None:
    labels = find(built["plain", "cpu"], "Namespace")["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    assert not [each for each in built["claim", "cpu"] if each["kind"] == "Namespace"]


@pytest.mark.parametrize(
    ("image", "expected", "policy"),
    [
        (None, f"deploykit-{NAME}:3", "IfNotPresent"),
        (IMAGE, f"registry.example.com/team/writer@{DIGEST}", "Always"),
        ("localhost:5000/writer:7", "localhost:5000/writer:7", "Always"),
        (f"localhost:5000/team/writer:7@{DIGEST}", f"localhost:5000/team/writer@{DIGEST}", "Always"),
    ],
)
def test_every_container_has_the_image(image: str | None, expected: str, policy: str, tmp_path: Path) -> None:
    config = replace(EVERYTHING, image=image)
    every = list(containers(pod_of(build(write(tmp_path, config)))))
    assert {(each["image"], each["imagePullPolicy"]) for each in every} == {(expected, policy)}
    assert len(every) == 3


def test_another_image_and_namespace_are_set_in_the_overlay(tmp_path: Path) -> None:
    overlay = write(tmp_path, EVERYTHING) / "overlays" / "cpu"
    file = overlay / "kustomization.yaml"
    content = yaml.safe_load(file.read_text())
    content["images"][0] |= {"digest": f"sha256:{'2' * 64}"}
    content["namespace"] = "elsewhere"
    file.write_text(yaml.safe_dump(content))
    objects = build(overlay)
    assert {each["image"].partition("@")[2] for each in containers(pod_of(objects))} == {f"sha256:{'2' * 64}"}
    assert {each["metadata"].get("namespace", each["metadata"]["name"]) for each in objects} == {"elsewhere"}


def test_the_number_of_pods_is_set_once(built: dict[tuple[str, str], list[Object]]) -> None:
    assert find(built["plain", "cpu"], "Deployment")["spec"]["replicas"] == 2
    assert "replicas" not in find(built["claim", "cpu"], "Deployment")["spec"]
    assert "replicas" not in find(built["everything", "gpu"], "Deployment")["spec"]


def test_every_overlay_has_what_was_chosen(built: dict[tuple[str, str], list[Object]]) -> None:
    for overlay in OVERLAYS:
        kinds = {each["kind"] for each in built["everything", overlay]}
        assert {"ScaledObject", "PodMonitor", "PrometheusRule"} <= kinds
        assert container_of(built["everything", overlay], "gateway")


def test_what_the_cluster_must_have_already_is_named(built: dict[tuple[str, str], list[Object]]) -> None:
    assert find(built["claim", "cpu"], "Deployment")["metadata"]["annotations"]["deploykit/needs"] == (
        f"pvc/models, secret/{NAME}-api-keys"
    )
    assert "annotations" not in find(built["plain", "cpu"], "Deployment")["metadata"]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_no_file_is_forgotten(config: DeployConfig) -> None:
    written = files(FACTS, size_pod(FACTS, config), config)
    # Where a reader begins, and what is for an operator of the cluster to apply.
    named = {"kustomization.yaml", *(f"overlays/{overlay}/kustomization.yaml" for overlay in OVERLAYS)}
    named |= {"components/hpa/prometheus-adapter.yaml"} if config.scaling == "hpa" else set()
    for path, text in written.items():
        if not path.endswith("kustomization.yaml"):
            continue
        content = yaml.safe_load(text)
        patches = [patch["path"] for patch in content.get("patches", [])]
        for entry in [*content.get("resources", []), *content.get("components", []), *patches]:
            target = (Path("/") / path).parent / entry
            file = target if target.suffix else target / "kustomization.yaml"
            named.add(str(file.resolve().relative_to("/")))
    assert set(written) == named


def test_the_same_model_and_options_give_the_same_bytes() -> None:
    first, second = (files(FACTS, size_pod(FACTS, config), config) for config in (EVERYTHING, EVERYTHING))
    assert list(first.items()) == list(second.items())


@pytest.mark.parametrize("name", ["gpu", "mig"])
def test_a_gpu_that_is_not_used_is_spoken_of(name: str) -> None:
    written = files(FACTS, size_pod(FACTS, EVERYTHING), EVERYTHING)
    head = written[f"components/{name}/kustomization.yaml"].replace("# ", "")
    assert CPU_ONLY in head
    assert "computes on the CPU" in head
