"""What stands in a command line is for everybody to read."""

import os
import subprocess
import sys
from pathlib import Path

from deploykit.serve.hiding import hide


def test_a_secret_that_was_read_is_taken_out_of_the_command_line() -> None:
    code = "import sys; print(sys.argv[1], flush=True); input(); print(sys.argv[1])"
    command = [sys.executable, "-c", code, "--key=s3cr3t", "--again=s3cr3t"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        assert child.stdout.readline() == "--key=s3cr3t\n"
        assert hide(child.pid, "s3cr3t")
        line = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        assert b"s3cr3t" not in line
        assert b"--again=------" in line
        child.stdin.write("\n")
        child.stdin.close()
        assert child.stdout.readline() == "--key=s3cr3t\n"


def test_a_process_that_is_gone_is_no_failure() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert not hide(child.pid, "s3cr3t")
    assert os.getpid() != child.pid
