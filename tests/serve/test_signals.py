"""A hangup is a closed terminal, or somebody who asks for a reload."""

import os
import pty
import signal
import sys
from pathlib import Path

import pytest

WAIT = """
import signal, sys
from pathlib import Path
from deploykit.signals import Hangup, handling

hung_up, out = Hangup(), Path(sys.argv[1])
with handling(lambda *_: out.write_text(str(hung_up())), signal.SIGHUP):
    out.write_text("waiting")
    while out.read_text() == "waiting":
        signal.sigtimedwait([], 0.05)
"""


@pytest.mark.parametrize(
    ("closes", "ignored", "meaning"), [(True, False, "True"), (True, True, "False"), (False, False, "False")]
)
def test_only_a_terminal_that_is_gone_ends_the_program(
    closes: bool, ignored: bool, meaning: str, tmp_path: Path
) -> None:
    out = tmp_path / "said"
    pid, terminal = pty.fork()
    if pid == 0:  # the program, with a terminal of its own
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, "-c", WAIT, str(out)])
    while not (out.exists() and out.read_text() == "waiting"):
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    if closes:
        os.close(terminal)
    else:
        os.kill(pid, signal.SIGHUP)
    os.waitpid(pid, 0)
    if not closes:
        os.close(terminal)
    assert out.read_text() == meaning
