"""What becomes of callers while a pod lives, dies and ends, by its own manifests on a real Triton: the tests' figures.

python benchmarks/pod_life.py

The pods are those of tests/deploy/life, which say how they are run here; every figure is one that a test has asserted.
"""

import ast
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

from results import keep

TESTS = Path(__file__).parents[1] / "tests/deploy/life"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # Of that form alone are properties of a single test a part.
        form = ["-o", "junit_family=xunit1", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", "-q", str(TESTS), "-m", "slow or not slow", *form]
        status = subprocess.run(command, check=False).returncode
        if status == 0:
            keep("pod_life", figures(ET.parse(report).getroot()))
    return status


def figures(report: ET.Element) -> dict[str, object]:
    """Return what the tests have recorded, by name."""
    return {each.attrib["name"]: ast.literal_eval(each.attrib["value"]) for each in report.iter("property")}


if __name__ == "__main__":
    sys.exit(main())
