"""Names and labels that Kubernetes takes, whatever a model is called."""

import re
from dataclasses import replace

import pytest
from deployments import FACTS, IMAGE
from hypothesis import given
from hypothesis import strategies as st
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Service

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.names import image, image_name, kind_of, kubernetes_name, labels, metadata, selector
from deploykit.errors import ConfigError


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("writer", "writer"),
        ("Writer_v2.1", "writer-v2-1"),
        ("-a-", "a"),
        ("a" * 49 + "._b", "a" * 49),
        ("a" * 128, "a" * 50),
        ("3b", "m-3b"),
        ("7" * 60, "m-" + "7" * 48),
    ],
)
def test_names(model: str, name: str) -> None:
    assert kubernetes_name(model) == name


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True))
def test_a_service_may_be_called_so(model: str) -> None:
    # RFC 1035, with room for the longest suffix.
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", kubernetes_name(model) + "-headless")
    assert len(kubernetes_name(model)) <= 50


def test_a_name_of_nothing_but_signs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'_\._'.*package it anew"):
        kubernetes_name("_._")


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True), st.integers(1, 2**63 - 1))
def test_labels_are_such_as_kubernetes_takes(model: str, version: int) -> None:
    for key, value in labels(replace(FACTS, name=model, version=version)).items():
        assert re.fullmatch(r"app\.kubernetes\.io/[a-z-]+", key)
        assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", value)
        assert len(value) <= 63


def test_selectors_know_no_version() -> None:
    new = replace(FACTS, version=FACTS.version + 1)
    assert selector(new) == selector(FACTS)
    assert labels(new) != labels(FACTS)
    assert selector(FACTS).items() <= labels(FACTS).items()


def test_metadata_and_kinds() -> None:
    about = metadata(FACTS, "-headless", component="other", annotations={"a": "b"})
    assert about.name == "writer-v2-headless"
    assert about.annotations == {"a": "b"}
    assert about.labels is not None
    assert about.labels["app.kubernetes.io/component"] == "other"
    assert kind_of(Deployment) == {"apiVersion": "apps/v1", "kind": "Deployment"}
    assert kind_of(Service) == {"apiVersion": "v1", "kind": "Service"}
    assert image_name(FACTS) == "deploykit-writer-v2"
    assert image(FACTS, DeployConfig()) == "deploykit-writer-v2:3"
    assert image(FACTS, DeployConfig(image=IMAGE)) == IMAGE
