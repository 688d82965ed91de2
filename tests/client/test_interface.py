"""The client's public face."""

import inspect
import subprocess
import sys

import deploykit.client


def test_the_public_names() -> None:
    assert deploykit.client.__all__ == [
        "TLS",
        "AsyncClient",
        "AsyncTextStream",
        "CancelledError",
        "Choice",
        "Chunk",
        "Client",
        "ClientError",
        "Completion",
        "DeadlineExceededError",
        "Health",
        "InvalidRequestError",
        "Message",
        "Model",
        "NotFoundError",
        "Options",
        "PermissionDeniedError",
        "Sampling",
        "ServerError",
        "StreamBrokenError",
        "TextStream",
        "TokenLogprob",
        "UnavailableError",
    ]


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "tokenizers", "rich", "click")
    code = f"import sys, deploykit.client; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_examples_in_the_docstrings_are_sound_python() -> None:
    found = 0
    for name in deploykit.client.__all__:
        thing = getattr(deploykit.client, name)
        for documented in (thing, *(member for _, member in inspect.getmembers(thing, inspect.isfunction))):
            for block in (inspect.getdoc(documented) or "").split("```python")[1:]:
                compile(inspect.cleandoc(block.split("```")[0]), name, "exec")
                found += 1
    assert found >= 10
