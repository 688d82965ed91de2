"""What each ONNX Runtime reads, asked of its own wheels: IR version, opset, and every com.microsoft operator.

    python benchmarks/onnxruntimes.py

Writes deploykit/doctor/runtimes.json, the table behind `deploykit doctor`. Each wheel goes into a folder of its own.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "deploykit" / "doctor" / "runtimes.json"
VERSIONS = (
    "1.18.1", "1.19.2", "1.20.1", "1.21.0", "1.22.0", "1.23.2", "1.24.4", "1.25.1", "1.26.0", "1.27.0", "1.28.0",
    "1.29.0", "1.30.0", "1.31.1", "1.32.0",
)  # fmt: skip
PROBE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import onnxruntime as ort, onnxruntime.capi.onnxruntime_pybind11_state as state
from onnx import TensorProto, helper

def reads(ir, opset):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True

operators = {}
for schema in state.get_all_operator_schema():
    if schema.domain == "com.microsoft":
        operators[schema.name] = {"inputs": schema.max_input, "attributes": sorted(schema.attributes)}
print(json.dumps({
    "ir": max(ir for ir in range(8, 20) if reads(ir, 17)),
    "opset": max(opset for opset in range(17, 35) if reads(8, opset)),
    "operators": operators,
}))
"""


def main() -> None:
    found = {version: ask(version) for version in VERSIONS}
    TABLE.write_text(json.dumps(table(found), indent=1, sort_keys=True) + "\n")
    print(f"{TABLE}: {len(found)} versions")


def ask(version: str) -> dict[str, Any]:
    """Return what one version reads."""
    with tempfile.TemporaryDirectory() as folder:
        install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, f"onnxruntime=={version}"]
        subprocess.run([sys.executable, *install], check=True)
        run = subprocess.run([sys.executable, "-c", PROBE, folder], capture_output=True, text=True, check=True)
    print(version, flush=True)
    return dict(json.loads(run.stdout))


def table(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the versions' limits, and since when each operator, input and attribute is there."""
    runtimes = {_minor(version): {"ir": f["ir"], "opset": f["opset"]} for version, f in found.items()}
    operators: dict[str, dict[str, Any]] = {}
    for version, facts in found.items():
        since = _minor(version)
        for name, schema in facts["operators"].items():
            entry = operators.setdefault(name, {"since": since, "inputs": {}, "attributes": {}})
            if schema["inputs"] > max(entry["inputs"].values(), default=-1):
                entry["inputs"][since] = schema["inputs"]
            for attribute in schema["attributes"]:
                entry["attributes"].setdefault(attribute, since)
    return {"runtimes": runtimes, "operators": {name: _short(entry) for name, entry in operators.items()}}


def _short(entry: dict[str, Any]) -> dict[str, Any]:
    later = {name: since for name, since in entry["attributes"].items() if since != entry["since"]}
    known = sorted(name for name, since in entry["attributes"].items() if since == entry["since"])
    return {"since": entry["since"], "inputs": entry["inputs"], "attributes": known, "later": later}


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


if __name__ == "__main__":
    main()
