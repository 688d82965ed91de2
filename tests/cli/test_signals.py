"""A command that is stopped in the middle leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def hear_ctrl_c() -> None:
    # A shell starts what runs in its background deaf to SIGINT, and its children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_export_leaves_nothing(tmp_path: Path, tiny_llama: Path, number: int, status: int) -> None:
    out = tmp_path / "here" / "out"
    command = [sys.executable, "-m", "deploykit", "export", str(tiny_llama), "-o", str(out)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509 - one system call, which takes no lock a thread could hold
    ) as process:
        end = time.monotonic() + 60
        while not list(tmp_path.glob("here/.out.*.partial")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "Traceback" not in said
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "heard"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "SystemExit"), (None, "nothing")]
)
def test_a_signal_is_heard_inside_a_finalizer_too(number: int | None, heard: str) -> None:
    script = f"""
import os, signal, time
from deploykit.cli.main import hear_signals
signal.signal(signal.SIGINT, signal.default_int_handler)
hear_signals()
class Doomed:
    def __del__(self):
        if not {number and int(number)}:
            raise ValueError("shown as ever")
        os.kill(os.getpid(), {number and int(number)})
        time.sleep(1)
doomed = Doomed()
del doomed
try:
    time.sleep(2)
    print("nothing")
except BaseException as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{heard}\n"
    assert ("shown as ever" in done.stderr) == (number is None)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root makes namespaces of processes")
def test_a_containers_first_process_hears_sigterm_before_its_imports_are_done() -> None:
    # The signal comes before `main` has run; sent from within it is lost as one from outside would be.
    program = "import os, signal, deploykit.cli; os.kill(1, signal.SIGTERM); signal.pause()"
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", program]
    done = subprocess.run(alone, check=False, timeout=20, capture_output=True)
    if b"unshare failed" in done.stderr:
        pytest.skip("this kernel makes no namespaces here")
    assert done.returncode == 128 + signal.SIGTERM
