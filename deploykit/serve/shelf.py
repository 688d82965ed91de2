"""The folder that Triton looks at: for each model its configuration, and where its files lie.

Not the user's own: several artifacts are then served as one repository, Triton's bytecode stays out of them, and each
backend can be told which load it came with.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deploykit.disk import exchange
from deploykit.repository import CONFIG, Model
from deploykit.serve.settings import LOAD_PARAMETER, POINTER

_MODELS: Final = "models"
_ASIDE: Final = "aside"


class Shelf:
    """A model repository without the models; the backends find them by the pointers in it."""

    def __init__(self, folder: Path) -> None:
        """Begin an empty one in `folder`, which is empty too."""
        self.path: Final = folder / _MODELS
        """What Triton takes for its model repository."""
        self._aside = folder / _ASIDE
        self.path.mkdir()

    @contextmanager
    def showing(self, model: Model, load: int) -> Iterator[None]:
        """Show a model, in place of an earlier one of its name; what was there before comes back if the block raises.

        Its configuration says that it is load `load`.
        """
        self._write(model, load)
        target = self.path / model.name
        replaces = target.exists()
        if replaces:
            exchange(self._aside, target)
        else:
            self._aside.rename(target)
        try:
            yield
        except BaseException:
            # Where the server has ended meanwhile, the whole shelf may be gone.
            with suppress(FileNotFoundError):
                if replaces:
                    exchange(self._aside, target)
                else:
                    target.rename(self._aside)
            raise
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)

    def _write(self, model: Model, load: int) -> None:
        self._aside.mkdir()
        # The parameters are a map, so that this one is added to those that are there.
        parameter = f'parameters {{\n  key: {json.dumps(LOAD_PARAMETER)}\n  value {{ string_value: "{load}" }}\n}}\n'
        (self._aside / CONFIG).write_bytes((model.folder / CONFIG).read_bytes() + b"\n" + parameter.encode())
        for version in model.versions:
            place = self._aside / str(version)
            place.mkdir()
            for code in model.version_folder(version).glob("*.py"):
                shutil.copyfile(code, place / code.name)
            (place / POINTER).write_text(str(model.version_folder(version)), encoding="utf-8")

    def remove(self, name: str) -> None:
        """Show a model no longer."""
        shutil.rmtree(self.path / name)
