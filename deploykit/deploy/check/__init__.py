"""The linter: what would break in a cluster, told from the manifests alone."""

from deploykit.deploy.check.checking import Checked, check

__all__ = ["Checked", "check"]
