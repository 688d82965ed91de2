"""Render chat templates for the process at the other end of a socket, with no way to harm it.

    python -I -S sandbox.py FOLDER    (the one that holds jinja2; the socket is standard input)

A program of its own, which imports nothing of deploykit. Frames are a length of four bytes and so many bytes. The first
brings templates and limits as JSON, each further one what to render; the answer to each is a letter and a text.
The environment is the one in which transformers renders, since that is what templates are written for.
"""

import codecs
import json
import os
import pprint
import resource
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final

if __name__ == "__main__":
    sys.path.append(sys.argv[1])

import jinja2
import jinja2.constants
import jinja2.debug
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

TEXT: Final = b"t"
FAULT: Final = b"f"
"""The template failed, or doesn't compile."""
REFUSED: Final = b"r"
"""The template itself refused the messages."""
MEMORY: Final = b"m"
LENGTH: Final = 4
"""Bytes that a frame's length takes."""
FILE_NAME: Final = "chat template"
"""What compiled templates call their file, by which their lines are told from jinja2's own."""
_LONGEST_REASON: Final = 300
"""Characters of a failure's reason: a template can make it as long as it likes."""


class _RefusalError(jinja2.TemplateError):
    """What a template raises by `raise_exception`."""


class _Generation(Extension):
    """The block `generation`, which marks the model's own words for training: here just what it holds."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> Node:
        """Return the block as a call of what is inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Macro) -> str:
        return str(caller())


class _Namespace(Namespace):
    """A namespace without names that lead into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # All by position, as jinja2's own, so that `self` can be one of the names.
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _Dictionary:
    """The function `dict`: the type itself has more attributes than a template should see."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Return a dictionary with these keys and one value."""
        return dict.fromkeys(*args)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore, such as {name!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own writes < and & as escapes, for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise _RefusalError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - where the server is, as transformers has it


def environment() -> ImmutableSandboxedEnvironment:
    """Return jinja2 as chat templates expect it."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals |= {
        "raise_exception": _refuse,
        "strftime_now": _now,
        "dict": _Dictionary(),
        "namespace": _Namespace,
    }
    return made


class Renderer:
    """Templates, compiled."""

    def __init__(self, templates: dict[str, str], *, longest: int) -> None:
        """Compile them; `longest` are the bytes of a text that may come out."""
        jinja = environment()
        self._longest = longest
        self._templates = {
            name: jinja.template_class.from_code(
                jinja, jinja.compile(source, filename=FILE_NAME), jinja.make_globals(None)
            )
            for name, source in templates.items()
        }

    def render(self, request: dict[str, Any]) -> bytes:
        """Return the text that one of the templates makes of the request's variables."""
        text = self._templates[request["template"]].render(request["variables"]).encode()
        if len(text) > self._longest:
            raise ValueError(f"its text has {len(text)} bytes; at most {self._longest} may come out")
        return text


def answer(work: Callable[[], bytes], cpu_seconds: float) -> tuple[bytes, bytes]:
    """Return what `work` returns, or in a line what went wrong; the kernel ends this process if it takes too long."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    try:
        return TEXT, work()
    except MemoryError:
        return MEMORY, b""
    except _RefusalError as error:
        return REFUSED, _line(str(error))
    except Exception as error:  # whatever a template does wrong
        return FAULT, _line(f"{type(error).__name__}: {error}{_place(error)}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _line(text: str) -> bytes:
    return " ".join(text[: 2 * _LONGEST_REASON].split())[:_LONGEST_REASON].encode(errors="replace")


def _place(error: Exception) -> str:
    """Return the line of the template that an error comes from, as far as known."""
    line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE_NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""


def close_doors(memory: int) -> None:
    """Take from this process what no template needs: more memory, files, sockets, children, a core file."""
    # What is read from files when first needed is needed now: by the lexer, by two filters, by a function, by errors.
    codecs.lookup("unicode-escape")
    assert all((pprint, textwrap, jinja2.constants, jinja2.debug))
    time.tzset()
    pages = int(open("/proc/self/statm", "rb").read().split()[0])  # noqa: PTH123, SIM115 - pathlib isn't loaded here
    _bound(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGESIZE") + memory)
    _bound(resource.RLIMIT_NOFILE, 3)
    for limit in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        _bound(limit, 0)


def _bound(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _receive(peer: socket.socket) -> bytes:
    return _exactly(peer, int.from_bytes(_exactly(peer, LENGTH)))


def _exactly(peer: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = peer.recv(min(size - len(found), 2**20))
        if not part:
            # The other process has closed this one's socket, or has ended.
            sys.exit()
        found += part
    return bytes(found)


def _send(peer: socket.socket, letter: bytes, text: bytes) -> None:
    peer.sendall(letter + len(text).to_bytes(LENGTH) + text)


def main() -> None:
    """Compile, then render until the other end closes."""
    # Whatever the starting process does with the signal that the kernel ends this one by.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    with socket.socket(fileno=0) as peer:
        opening = json.loads(_receive(peer))
        close_doors(opening["memory"])
        made: list[Renderer] = []

        def compiled() -> bytes:
            made.append(Renderer(opening["templates"], longest=opening["output"]))
            return b""

        _send(peer, *answer(compiled, opening["cpu_seconds"]))
        while made:
            frame = _receive(peer)
            _send(peer, *answer(partial(_rendered, made[0], frame), opening["cpu_seconds"]))


def _rendered(renderer: Renderer, frame: bytes) -> bytes:
    return renderer.render(json.loads(frame))


if __name__ == "__main__":
    main()
