"""What Kubernetes, registries and object stores take as a name: a typing error is told before a cluster sees it.

None of it has a space, a quote or `$` in it: all of it is shown in commands that people paste into a shell.
"""

import re
from typing import Final

from deploykit.errors import ConfigError

LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123), which the names of namespaces are."""
SUBDOMAIN: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""A DNS subdomain (RFC 1123), which the names of most objects are."""
LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
"""The value of a label, as nodes have them."""
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
"""An image's digest: https://github.com/opencontainers/image-spec, `descriptor.md`."""
_HOST: Final = r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*(:[0-9]{1,5})?"
_PART: Final = r"[a-z0-9]+(([.]|_{1,2}|-+)[a-z0-9]+)*"
IMAGE: Final = re.compile(
    rf"(?=[^@]{{1,300}}(@|\Z))({_HOST}/)?{_PART}(/{_PART})*"
    r"(?=[:@])(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
"""An image with its tag, its digest, or both: https://github.com/distribution/reference, `reference.go`."""
MIG: Final = re.compile(r"[1-9]g\.[1-9][0-9]{0,3}gb")
BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
PATH: Final = re.compile(r"[A-Za-z0-9._=+@:,/-]+")
"""A path in a bucket, of characters that neither a shell nor a URL reads as anything else."""
HTTP: Final = re.compile(rf"https?://({_HOST}|\[[0-9A-Fa-f:.]+\](:[0-9]{{1,5}})?)(/[A-Za-z0-9._~/-]*)?")


def check_name(field: str, value: str | None) -> None:
    """Refuse what is no DNS label; None is nobody's choice.

    Raises:
        ConfigError: it isn't one.
    """
    if value is not None and not LABEL.fullmatch(value):
        raise ConfigError(f"{field} must be 1 to 63 of a-z, 0-9 and '-', as Kubernetes names are; got {value!r}")


def check_object(field: str, value: str | None) -> None:
    """Refuse what is no DNS subdomain; None is nobody's choice.

    Raises:
        ConfigError: it isn't one.
    """
    if value is not None and not SUBDOMAIN.fullmatch(value):
        raise ConfigError(f"{field} must be 1 to 253 of a-z, 0-9, '-' and '.', as objects are named; got {value!r}")


def check_label(field: str, value: str | None) -> None:
    """Refuse what no label of a node can be; None is nobody's choice.

    Raises:
        ConfigError: it can't.
    """
    if value is not None and not LABEL_VALUE.fullmatch(value):
        raise ConfigError(
            f"{field} must be 1 to 63 letters, digits, '-', '_' and '.', as a node's label is; got {value!r}"
        )


def check_image(field: str, value: str | None) -> None:
    """Refuse what names no image; None is nobody's choice.

    Raises:
        ConfigError: it names none.
    """
    if value is not None and not IMAGE.fullmatch(value):
        raise ConfigError(f"{field} must be an image, REPO@sha256:DIGEST or REPO:TAG; got {value!r}")


def check_address(field: str, value: str) -> None:
    """Refuse what is no address of a server that speaks HTTP, or holds a password.

    Raises:
        ConfigError: it is none, or holds one.
    """
    if re.match(r"[a-z]+://[^/]*@", value):
        raise ConfigError(
            f"{field} must not hold a password, which would stand in the manifests for all to read: leave it out, "
            "and give it to KEDA in a TriggerAuthentication"
        )
    port = re.search(r":([0-9]+)(?=/|\Z)", value)
    if not HTTP.fullmatch(value) or (port and not 1 <= int(port[1]) <= 65535):
        raise ConfigError(f"{field} must be like http://HOST:PORT/PATH, got {value!r}")


def check_store(field: str, value: str) -> None:
    """Refuse what names no path in a bucket.

    Raises:
        ConfigError: it names none.
    """
    scheme, _, rest = value.partition("://")
    bucket, _, path = rest.partition("/")
    if scheme != "s3" or not path.strip("/"):
        raise ConfigError(f"{field} must be s3://BUCKET/PATH, got {value!r}")
    if not BUCKET.fullmatch(bucket):
        raise ConfigError(f"{field} names the bucket {bucket!r}; a bucket is 3 to 63 of a-z, 0-9, '.' and '-'")
    if not PATH.fullmatch(path):
        raise ConfigError(f"{field} names the path {path!r}; it may have letters, digits and any of ._=+@:,/-")
