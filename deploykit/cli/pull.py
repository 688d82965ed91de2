"""`deploykit pull`."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deploykit.cli import console, options
from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.pull import Pulled

_SETTING: Final = re.compile(r"(AWS|GOOGLE|AZURE)_[A-Z0-9_]+")


@click.command()
@click.argument("url", metavar="URL")
@options.output
@click.option(
    "--fingerprint",
    default=None,
    metavar="HEX",
    help="What the model's must be, as `deploykit deploy` writes it; the only model's in the repository.",
)
@click.option(
    "--credentials",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="A mounted Secret: its files are set as variables, such as AWS_ACCESS_KEY_ID. It may be empty.",
)
@options.as_json
def pull(
    url: str, output: Path, overwrite: bool, fingerprint: str | None, credentials: Path | None, as_json: bool
) -> None:
    """Download a packaged model from URL, such as s3://BUCKET/PATH, and check every file of it.

    The usual variables open the store (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_…, AZURE_…), or the identity that a
    cluster gives its pods. An attempt that was cut off is taken up again.
    """
    if fingerprint is not None and not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
        raise ConfigError(f"fingerprint must be 64 digits and letters a to f, got {fingerprint!r}; see deploykit.json")
    if credentials is not None:
        os.environ.update(read_settings(credentials))
    from deploykit.pull import pull as run

    with console.progress() as progress:
        pulled = run(url, output, fingerprint=fingerprint, overwrite=overwrite, progress=progress)
    if as_json:
        console.print_json(_as_json(pulled))
    else:
        _tell(pulled)


def read_settings(folder: Path) -> dict[str, str]:
    """Return the variables of an object store that stand in a folder, a file each, as Kubernetes mounts a Secret.

    Raises:
        ConfigError: the folder isn't there, or a file in it can't be read.
    """
    try:
        files = [entry for entry in sorted(folder.iterdir()) if _SETTING.fullmatch(entry.name)]
        return {file.name: file.read_text(encoding="utf-8").strip() for file in files}
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigError(f"--credentials {folder}: can't be read: {why}") from error


def _as_json(pulled: "Pulled") -> dict[str, Any]:
    models = [{"name": m.name, "versions": list(m.versions), "fingerprint": m.fingerprint} for m in pulled.models]
    return {"path": str(pulled.path), "models": models, "bytes": pulled.size, "downloaded": pulled.downloaded}


def _tell(pulled: "Pulled") -> None:
    for model in pulled.models:
        versions = ", ".join(str(version) for version in model.versions)
        click.echo(f"{model.name}: version {versions}, fingerprint {model.fingerprint}")
    click.echo(f"{pulled.path}: {console.megabytes(pulled.size)}, {console.megabytes(pulled.downloaded)} downloaded")
