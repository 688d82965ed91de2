"""The linter: what would break in a cluster, told from the manifests alone."""
