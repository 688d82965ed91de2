"""Streams a token through the container's Triton, and imports what the image's packages are compiled to.

python prove.py MODEL_REPOSITORY

A build runs it, so that no image is made that can't.
"""

import importlib
import sys
import sysconfig
from pathlib import Path

from deploykit.client import Client
from deploykit.config import ServeConfig
from deploykit.serve import serve

PORTS = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0)
SITE = Path(sysconfig.get_path("purelib"))

for file in sorted([*SITE.rglob("*.cpython-*.so"), *SITE.rglob("*.abi3.so")]):
    name = file.name.partition(".")[0]
    # numpy's modules for its own tests are for nobody else.
    if not name.endswith("_tests"):
        importlib.import_module(".".join((*file.relative_to(SITE).parent.parts, name)))
with serve(sys.argv[1], PORTS) as server, Client(server.grpc_url) as client:
    print("".join(chunk.text for chunk in client.generate("def ", max_tokens=16, stream=True)))
