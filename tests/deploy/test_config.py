"""What can't be is refused when it is asked for, in one line that names the choice."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.deploy.config import DeployConfig
from deploykit.errors import ConfigError

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"replicas": 0}, "replicas must be 1 to 10,000, got 0"),
        ({"replicas": 10**11}, "replicas must be 1 to 10,000"),
        ({"max_replicas": 2**31, "scaling": "keda"}, "max_replicas must be 1 to 10,000"),
        ({"cpu": 1000}, "cpu must be 1 to 256"),
        ({"pre_stop": 100_000}, "pre_stop must be 1 to 600, got 100,000"),
        ({"exit_timeout": 0}, "exit_timeout must be 1 to 3,600"),
        ({"replicas": 1, "scaling": "hpa"}, "replicas must be at least 2 where hpa scales"),
        ({"max_replicas": 1}, "max_replicas is for what scales: leave it out"),
        ({"prometheus": "http://prometheus.example.com"}, "prometheus is for what scales"),
        ({"api_keys_secret": "keys"}, "api_keys_secret is for the gateway"),
        ({"api_keys_secret": "Keys", "gateway": True}, "api_keys_secret must be 1 to 253"),
        ({"namespace": "a.b"}, "namespace must be 1 to 63"),
        ({"namespace": "a\n"}, "namespace must be 1 to 63"),
        ({"runtime_class": "Bad Name"}, "runtime_class must be 1 to 253 .*; got 'Bad Name'"),
        ({"runtime_class": "a" * 254}, "runtime_class must be"),
        ({"gpu_product": "NVIDIA H100"}, "gpu_product must be 1 to 63 letters, digits.*; got 'NVIDIA H100'"),
        ({"gpu_product": "a" * 64}, "gpu_product must be"),
        ({"mig_profile": "1g"}, "mig_profile must be like 1g.10gb"),
        ({"image": "registry.example..com/x:1"}, "image must be an image"),
        ({"image": "x:1:2"}, "image must be an image"),
        ({"image": "x"}, "image must be an image"),
        ({"image": f"x@{DIGEST[:-1]}"}, "image must be an image"),
        ({"prometheus": "not a url", "scaling": "keda"}, "prometheus must be like http://HOST:PORT/PATH"),
        ({"prometheus": "prometheus:9090", "scaling": "keda"}, "prometheus must be like http://"),
        ({"prometheus": "http://x:99999", "scaling": "keda"}, "prometheus must be like http://"),
        ({"prometheus": "http://x/'; id; '", "scaling": "keda"}, "prometheus must be like http://"),
        ({"delivery": "pvc"}, "delivery pvc takes a claim's name: give it as --source"),
        ({"delivery": "pvc", "source": "a;b"}, "source must be 1 to 253"),
        ({"source": "models"}, "delivery image takes no source"),
        ({"delivery": "s3", "source": "https://models/writer"}, "source must be s3://BUCKET/PATH"),
        ({"delivery": "s3", "source": "s3://models/"}, "source must be s3://BUCKET/PATH"),
        ({"delivery": "s3", "source": "s3://b/writer"}, "the bucket 'b'; a bucket is 3 to 63"),
        ({"delivery": "s3", "source": "s3://Models/writer"}, "the bucket 'Models'"),
        ({"delivery": "volume", "source": "Writer:3"}, "source must be an image"),
        ({"delivery": "ftp"}, "delivery must be one of image, pvc, s3, volume"),
    ],
)
def test_what_can_not_be_is_refused(choices: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        DeployConfig(**choices)
    assert len(str(told.value).splitlines()) == 1


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="TriggerAuthentication") as told:
        DeployConfig(scaling="keda", prometheus="http://me:secret@prometheus.example.com")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "choices",
    [
        {"image": "writer:3"},
        {"image": f"localhost:5000/team/wri_ter@{DIGEST}"},
        {"image": f"registry.example.com/a/b.c:v1.0@{DIGEST}"},
        {"prometheus": "https://prometheus.example.com:9090/k8s/", "scaling": "keda"},
        {"prometheus": "http://[fd00::1]:9090", "scaling": "hpa"},
        {"delivery": "s3", "source": "s3://models.example/team-a/writer_v2.1/@3"},
        {"delivery": "pvc", "source": "models.writer"},
        {"replicas": 9},
        {"runtime_class": "nvidia.v2", "gpu_product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"},
        {"api_keys_secret": "team.keys", "gateway": True},
    ],
)
def test_what_can_be_is_taken(choices: dict[str, Any]) -> None:
    config = DeployConfig(**choices)
    assert all(getattr(config, name) == value for name, value in choices.items())


@given(st.text(alphabet="a/$'\"`;&|<>(){}*?!~#\\ \n\x00\x7f", min_size=1).filter(lambda text: set(text) - {"a", "/"}))
def test_no_source_means_anything_to_a_shell(path: str) -> None:
    with pytest.raises(ConfigError):
        DeployConfig(delivery="s3", source=f"s3://models/a{path}")
