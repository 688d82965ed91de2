"""A process that renders chat templates: started, asked, and ended when it has gone too far."""

import errno
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from deploykit.chat_template.limits import Limits
from deploykit.errors import EngineError, MissingExtraError, QueueFullError, RequestError

_PROGRAM: Final = Path(__file__).with_name("sandbox.py")
_HEADER: Final = 5
"""Bytes before an answer's text: a letter and the text's length."""
_START_SECONDS: Final = 60.0
"""For the interpreter to start and compile: on a machine that has just begun, files are slow."""
_KEPT_VARIABLES: Final = ("LD_LIBRARY_PATH", "TZ")
"""All that the process sees of the environment: where libpython may be, and what time it is."""


class TemplateRefusalError(RequestError):
    """The template itself refuses the messages, by `raise_exception`."""


class Worker:
    """One process with templates compiled; for one thread at a time."""

    def __init__(self, templates: Mapping[str, str], limits: Limits) -> None:
        """Start it.

        Raises:
            RequestError: a template doesn't compile, or not within the limits.
            QueueFullError: no process can be started now.
            EngineError: none can be started at all.
            MissingExtraError: jinja2 isn't installed.
        """
        self._limits = limits
        self.usable = True
        """Whether it can be asked again."""
        self._socket, self._process = _start()
        opening = {
            "templates": dict(templates),
            "memory": limits.memory,
            "output": limits.output,
            "cpu_seconds": limits.cpu_seconds,
        }
        try:
            letter, reason = self._exchange(json.dumps(opening).encode(), _START_SECONDS)
            if letter == b"f":
                raise RequestError(f"the model's chat template can't be compiled: {reason}")
            if letter != b"t":
                raise RequestError(self._out_of_memory())
        except BaseException:
            # Python's own failures, such as a package that it doesn't find, end with a status above 0.
            broken = self._process.poll()
            self.close()
            if broken is not None and broken > 0:
                raise EngineError(
                    f"chat templates can't be rendered here: {python()} ends with status {broken} at its start; "
                    "check that it can import jinja2"
                ) from None
            raise

    @property
    def running(self) -> bool:
        """Whether its process is still there; the kernel may have ended it for others' sake."""
        return self._process.poll() is None

    def ask(self, frame: bytes) -> str:
        """Return the text that it makes of a request.

        Raises:
            RequestError: the template fails, refuses, or passes a limit.
        """
        letter, text = self._exchange(frame, self._limits.wall_seconds)
        if letter == b"r":
            raise TemplateRefusalError(f"the model's chat template refuses these messages: {text}")
        if letter == b"f":
            raise RequestError(f"the model's chat template fails on these messages: {text}")
        if letter != b"t":
            raise RequestError(self._out_of_memory())
        return text

    def close(self) -> None:
        """End the process."""
        self.usable = False
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _exchange(self, frame: bytes, seconds: float) -> tuple[bytes, str]:
        """Return the letter and the text of the answer to a frame."""
        end = time.monotonic() + seconds
        # Unless an answer has been read to its end, what comes next could be the rest of it.
        self.usable = False
        try:
            self._send(len(frame).to_bytes(4) + frame, end)
            header = self._receive(_HEADER, end)
            size = int.from_bytes(header[1:])
            if size > self._limits.output:
                raise ConnectionError("more than it may send")
            text = self._receive(size, end).decode()
        except TimeoutError:
            raise RequestError(self._too_long(seconds, "")) from None
        except (OSError, UnicodeDecodeError):
            raise RequestError(self._ending()) from None
        # What it holds after it has run out of memory may be nearly all that it may have.
        self.usable = header[:1] != b"m"
        return header[:1], text

    def _send(self, frame: bytes, end: float) -> None:
        self._socket.settimeout(_left(end))
        self._socket.sendall(frame)

    def _receive(self, size: int, end: float) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._socket.settimeout(_left(end))
            part = self._socket.recv(min(size - len(found), 2**20))
            if not part:
                raise ConnectionError("closed")
            found += part
        return bytes(found)

    def _ending(self) -> str:
        """Return why the process has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        if self._process.returncode == -signal.SIGPROF:
            return self._too_long(self._limits.cpu_seconds, " of processor time")
        return self._out_of_memory()

    def _too_long(self, seconds: float, of_what: str) -> str:
        return (
            f"the model's chat template took more than {seconds:g} s{of_what}; send fewer or shorter messages, "
            "or correct the template"
        )

    def _out_of_memory(self) -> str:
        return (
            f"the model's chat template took more than {self._limits.memory >> 20} MiB; send fewer or shorter "
            "messages, or correct the template"
        )


def _start() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    here, there = socket.socketpair()
    try:
        process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - our own program
            [python(), "-I", "-S", str(_PROGRAM), str(_home_of_jinja2())],
            stdin=there.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            cwd="/",
            # Ctrl-C in a terminal is meant for its user's command. It ends by itself when the socket closes.
            start_new_session=True,
        )
    except OSError as error:
        here.close()
        if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            raise QueueFullError(
                f"no process can be started for a chat template: {error.strerror}; try later"
            ) from None
        raise EngineError(f"chat templates can't be rendered here: {python()}: {error.strerror}; check it") from None
    except BaseException:
        here.close()
        raise
    finally:
        there.close()
    return here, process


@functools.cache
def python() -> str:
    """Return an interpreter to start: this one, unless a program of another name has Python built in."""
    if Path(sys.executable).name.startswith("python"):
        return sys.executable
    own = Path(sys.prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(own) if own.exists() else shutil.which("python3") or sys.executable


@functools.cache
def _home_of_jinja2() -> Path:
    found = find_spec("jinja2")
    if found is None or found.origin is None:
        raise MissingExtraError("jinja2", extra="engine", needed_for="a chat template")
    return Path(found.origin).parent.parent


def _left(end: float) -> float:
    """Return the seconds until `end`; above 0, which would mean not to wait at all."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
