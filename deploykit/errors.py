"""The errors a user can cause, each with its exit status.

    DeploykitError                 1   anything below, or a failure with no class of its own
    ├── ConfigError                2   an option or a configuration field that can't be
    ├── CheckpointError            3   a checkpoint that is missing, damaged or unsafe to read
    │   └── UnsupportedModelError  3   a sound checkpoint of a kind deploykit can't convert
    ├── ParityError                4   an ONNX output left its tolerance
    │   └── QualityError           4   a quantized model lost more quality on text than allowed
    ├── ArtifactError              5   an artifact that is missing, damaged or of another format
    │   └── StoreError             5   an object store that can't be reached or doesn't let itself be read
    ├── OutputError                6   an output that exists already or can't be written
    ├── MissingExtraError          7   a package that an extra would have installed
    ├── ServeError                 8   a server that can't start or doesn't come up
    ├── RequestError               9   a generation request the engine can't take
    │   └── QueueFullError         9   as many requests wait already as may
    ├── EngineError                1   the engine failed while it ran a request, or has stopped
    └── TrainError                11   text that can't be trained on, or training that diverged

The client adds its own branch in `deploykit.client.errors` (exit status 10). click uses 2 for a bad command line
and a run that Ctrl-C ends exits with 130. A message is one line: what, where with the figures, and the remedy.
"""


class DeploykitError(Exception):
    """A failure that its message explains to the user."""

    exit_code = 1


class ConfigError(DeploykitError):
    """An option or a configuration field has a value it can't have."""

    exit_code = 2


class CheckpointError(DeploykitError):
    """A checkpoint is missing, damaged or unsafe to read."""

    exit_code = 3


class UnsupportedModelError(CheckpointError):
    """A checkpoint is sound, but of a kind that can't be converted."""


class ParityError(DeploykitError):
    """An ONNX output left its tolerance, or a quantized model lost more quality than allowed."""

    exit_code = 4


class QualityError(ParityError):
    """A quantized model lost more quality on text than allowed: no defect, so there is no place to look for one."""


class ArtifactError(DeploykitError):
    """An artifact is missing, damaged or written in another format."""

    exit_code = 5


class StoreError(ArtifactError):
    """An object store can't be reached, or refuses to be read: nothing is known of what lies there."""


class OutputError(DeploykitError):
    """An output exists already or can't be written."""

    exit_code = 6


class MissingExtraError(DeploykitError):
    """A package is not installed that one of deploykit's extras brings."""

    exit_code = 7

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed; run: pip install 'deploykit[{extra}]'"
        )


class ServeError(DeploykitError):
    """A server can't be started, or doesn't become ready."""

    exit_code = 8


class RequestError(DeploykitError):
    """A generation request asks for something the engine can't do."""

    exit_code = 9


class TrainError(DeploykitError):
    """Text can't be trained on, or training diverged."""

    exit_code = 11


class QueueFullError(RequestError):
    """As many requests wait already as may; a later try can succeed."""


class EngineError(DeploykitError):
    """The engine failed while it ran a request, or it has stopped."""
