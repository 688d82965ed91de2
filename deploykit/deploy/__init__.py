"""`deploy`: a packaged model to manifests that a cluster takes."""
