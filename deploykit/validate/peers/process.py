"""The driver in another Python: started, watched and read."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.artifact import Artifact
from deploykit.errors import ConfigError, ParityError
from deploykit.spec import EXACT_INT8, VARIANT_FILES, DecoderSpec, Precision
from deploykit.validate.decoder import FloatArray, IntArray

DRIVER: Final = Path(__file__).with_name("driver.py")
PACKAGES: Final = {
    "genai": ("onnxruntime_genai", "onnxruntime-genai"),
    "optimum": ("optimum.onnxruntime", "optimum-onnx[onnxruntime]"),
    "onnxruntime": ("onnxruntime", "onnxruntime"),
}
"""What each runtime is imported as, and what pip installs it from."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a runtime made of a case's rows."""

    tokens: IntArray
    """[B, steps]."""
    logits: FloatArray
    """[B, steps, V]: those each token was chosen by."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a runtime gave."""

    runtime: str
    """Its name and version."""
    onnxruntime: str
    """The version of ONNX Runtime below it."""
    cases: Mapping[str, Generated]


def interpreter(runtime: str, python: Path | None) -> str:
    """Return the Python to run a runtime in: the one given, else this one if it has the runtime.

    Raises:
        ConfigError: there is none.
    """
    module, package = PACKAGES[runtime]
    if python is not None:
        if not python.is_file():
            raise ConfigError(f"--python {python}: no such file; {_how_to(runtime, package)}")
        # Not resolved: a virtual environment is known by the link's own place.
        return str(python.absolute())
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise ConfigError(f"--against {runtime}: {package} isn't installed here; {_how_to(runtime, package)}")
    return sys.executable


def generate(
    artifact: Artifact,
    precision: Precision,
    runtime: str,
    cases: Mapping[str, list[IntArray]],
    *,
    steps: int,
    pad: int,
    python: Path | None,
) -> Answers:
    """Return the runtime's greedy continuations of each case's rows.

    Raises:
        ConfigError: no Python has the runtime.
        ParityError: the runtime can't open the artifact, or fails in a case.
    """
    command = interpreter(runtime, python)
    spec = artifact.contract(precision)
    request = {
        "folder": str(artifact.path.resolve()),
        "graph": VARIANT_FILES[precision],
        "steps": steps,
        "pad": pad,
        "session": {EXACT_INT8: "1"},
        "cases": {name: [row.tolist() for row in rows] for name, rows in cases.items()},
        **_cache(spec),
    }
    with tempfile.TemporaryDirectory(prefix="deploykit-against-") as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "answer.npz")
        asked.write_text(json.dumps(request), encoding="utf-8")
        # -I: no PYTHONPATH of ours reaches an environment that isn't ours.
        try:
            done = subprocess.run(  # noqa: S603 - the user's own interpreter
                [command, "-I", str(DRIVER), runtime, str(asked), str(answered)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise ConfigError(f"--python {command}: can't be run: {error.strerror}; give a Python's path") from error
        if done.returncode or not answered.is_file():
            raise _failure(runtime, command, done)
        with np.load(answered) as arrays:
            found = {
                name: Generated(tokens=_int(arrays[f"{name}/tokens"]), logits=arrays[f"{name}/logits"])
                for name in cases
            }
    versions = json.loads(done.stdout.splitlines()[-1])
    return Answers(runtime=versions["runtime"], onnxruntime=versions["onnxruntime"], cases=found)


def _cache(spec: DecoderSpec) -> dict[str, Any]:
    """Return what a bare ONNX Runtime must be fed as an empty past."""
    past = list(spec.past())
    return {
        "past": [tensor.name for tensor in past],
        "present": [tensor.name for tensor in spec.present()],
        "cache": [(tensor.shape[1], tensor.shape[3]) for tensor in past],
        "cache_dtype": spec.cache_dtype,
    }


def _failure(runtime: str, command: str, done: "subprocess.CompletedProcess[str]") -> ConfigError | ParityError:
    reason = _exception(done.stderr) or f"it ended with {done.returncode}"
    package = PACKAGES[runtime][1]
    if reason.startswith(("ModuleNotFoundError", "ImportError")):
        return ConfigError(f"--against {runtime}: {command} lacks it ({reason}); {_how_to(runtime, package)}")
    at = (done.stdout.splitlines() or ["starting"])[-1]
    return ParityError(
        f"{runtime}: fails in case {at!r}: {reason[:400]}; "
        "compare with another version of it, or with another precision (--precision)"
    )


def _exception(stderr: str) -> str:
    """Return the exception that ended a Python, as one line without its traceback."""
    last = stderr.rpartition("Traceback (most recent call last):")[2].splitlines()
    start = next((at for at, line in enumerate(last) if line and not line[0].isspace()), 0)
    return " ".join(" ".join(last[start:]).split())


def _how_to(runtime: str, package: str) -> str:
    return (
        f"it wants versions of its own, so run: python -m venv {runtime} && {runtime}/bin/pip install '{package}' "
        f"numpy, and pass --python {runtime}/bin/python"
    )


def _int(array: NDArray[Any]) -> IntArray:
    return np.asarray(array, np.int64)
