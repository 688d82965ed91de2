"""The command that holds the verbs, and how their errors end it."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import click

from deploykit import __version__
from deploykit.cli.chat import chat
from deploykit.cli.console import printable
from deploykit.cli.convert import convert
from deploykit.cli.deploy import deploy
from deploykit.cli.doctor import doctor
from deploykit.cli.export import export
from deploykit.cli.gateway import gateway
from deploykit.cli.generate import generate
from deploykit.cli.inspect import inspect
from deploykit.cli.optimize import optimize
from deploykit.cli.package import package
from deploykit.cli.pull import pull
from deploykit.cli.quantize import quantize
from deploykit.cli.serve import serve
from deploykit.cli.train import train
from deploykit.cli.validate import validate
from deploykit.errors import DeploykitError, MissingExtraError

HELP = """From a Transformer checkpoint to a quantized ONNX model that streams tokens from Triton.

\b
deploykit export my-checkpoint -o out     convert, optimize, quantize, validate and package
deploykit serve out                       start Triton on the result
deploykit generate out "def fib(n):"      run it here, without a server
deploykit chat out                        talk with it
deploykit inspect out                     what it is, how it came about, how good it is
deploykit doctor out --release 26.07      will it run there, and in how much memory
deploykit deploy out -o k8s               Kubernetes manifests for it, and a linter of them"""

EPILOG = """\b
Exit status: 0 done · 2 option or command line · 3 checkpoint · 4 parity or quality · 5 artifact ·
6 output · 7 package missing · 8 server · 9 generation request · 10 client · 11 training data ·
12 the doctor or `deploy --check` found an error · 130 Ctrl-C · 1 anything else."""


EXTRAS = {
    "chat": "cpu,engine",
    "deploy": "deploy",
    "doctor": "engine",
    "gateway": "gateway",
    "generate": "cpu,engine",
    "inspect": "engine",
    "pull": "store",
    "serve": "cpu,engine,local",
    "train": "train",
}
"""Extras that a verb needs, where it isn't those of the export."""
EXTRA_PACKAGES = (
    "accelerate",
    "fastapi",
    "huggingface_hub",
    "jinja2",
    "lightkube",
    "matplotlib",
    "msgspec",
    "numpy",
    "obstore",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "optuna",
    "peft",
    "prometheus_client",
    "promql_parser",
    "sacrebleu",
    "safetensors",
    "starlette",
    "tensorboard",
    "tokenizers",
    "torch",
    "transformers",
    "tritonclient",
    "uvicorn",
    "uvloop",
    "yaml",
)
"""What those extras bring, by the name it is imported by."""


class _Failure(click.ClickException):
    """A user's mistake, shown as one line on stderr."""

    exit_code: int  # type: ignore[misc] # click declares it for the class; here each error has its own

    def __init__(self, error: DeploykitError) -> None:
        line = " ".join(str(error).split())
        # Names out of files may hold what a terminal would obey.
        super().__init__(printable(line))
        self.exit_code = error.exit_code
        # What a server wrote before it ended, if anything: below the one line, not in it.
        self._notes = getattr(error, "__notes__", [])

    def show(self, file: Any = None) -> None:  # noqa: ARG002 - click's signature
        click.echo(f"{click.style('error:', fg='red', bold=True)} {self.message}", err=True)
        for note in self._notes:
            click.echo(click.style(note, dim=True), err=True)


class _Commands(click.Group):
    """The verbs in the order in which they are used, with deploykit's errors shown and counted as click's own are."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DeploykitError as error:
            raise _Failure(error) from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRA_PACKAGES:
                raise
            verb = ctx.invoked_subcommand or ""
            extra = EXTRAS.get(verb, "cpu,export")
            raise _Failure(MissingExtraError(package, extra=extra, needed_for=f"deploykit {verb}")) from error
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            raise click.exceptions.Exit(130) from None


@click.group(
    cls=_Commands,
    help=HELP,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="deploykit")
def commands() -> None:
    """Hold the verbs."""


for verb in (
    export,
    serve,
    gateway,
    generate,
    chat,
    train,
    convert,
    optimize,
    quantize,
    validate,
    package,
    deploy,
    pull,
    inspect,
    doctor,
):
    commands.add_command(verb)


def main() -> None:
    """Run the command line and exit with its status."""
    # What the libraries below would print or send on their own: nothing of it is asked for.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # PyTorch's threads wait without spinning: beside one other busy process, training is three times as fast.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    hear_signals()
    commands(prog_name="deploykit")


def hear_signals() -> None:
    """Clean up after SIGTERM as after Ctrl-C, and hear both even while Python runs a finalizer."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _hear_again


def _hear_again(lost: "sys.UnraisableHookArgs") -> None:
    """Send a signal once more that Python dropped, as it does with what is raised inside `__del__`.

    `regex`, which transformers compiles patterns with, has thousands of finalizers: Ctrl-C went unheard there.
    """
    if lost.exc_type not in (KeyboardInterrupt, SystemExit):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGINT if lost.exc_type is KeyboardInterrupt else signal.SIGTERM
    # Later, since this runs inside the finalizer still.
    timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def _terminate(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
