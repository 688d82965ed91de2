"""Which models Triton serves, and how others take their place while it runs."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from deploykit.config import Mode
from deploykit.repository import Model, Repository, open_repository
from deploykit.serve.shelf import Shelf


class Server(Protocol):
    """What loading asks of a server process."""

    def load(self, model: str, timeout: float) -> None:
        """Have a model loaded, beside one of its name that serves, and return once it serves; or raise ServeError."""
        ...

    def unload(self, model: str, timeout: float) -> None:
        """Have a model removed; its open requests are still answered."""
        ...


class Loading:
    """The models at some paths, in what state they were last loaded, and what has changed since."""

    def __init__(self, paths: Sequence[Path], *, mode: Mode, timeout: float) -> None:
        """Open and verify what is at `paths`.

        Args:
            paths: artifacts and model repositories.
            mode: what they will all have to run in.
            timeout: seconds a model may take to load.

        Raises:
            ArtifactError: as `open_repository`; a file was changed, or a model can't run in that mode.
        """
        self._paths, self._mode, self._timeout = tuple(paths), mode, timeout
        self._number = 0
        self._shelf: Shelf | None = None
        self._one_at_a_time = threading.Lock()
        self._served = {model.name: model for model in open_repository(*paths).models}
        for model in self._served.values():
            model.verify(mode)

    @property
    def paths(self) -> Sequence[Path]:
        """The artifacts and repositories."""
        return self._paths

    @property
    def names(self) -> list[str]:
        """Names of the models that are served."""
        return sorted(self._served)

    def begin(self, folder: Path) -> Path:
        """Show a server that is about to start all models, and return where it is to look.

        Raises:
            ArtifactError: it starts again, and the models it served are gone.
        """
        # A reload that the server's end has broken off puts back what it showed; it hears of the end at once.
        with self._one_at_a_time:
            if self._number:
                # Only what lies there now can be loaded. The backends verify it.
                self._served = {model.name: model for model in open_repository(*self._paths).models}
            self._shelf = Shelf(folder)
            for model in self._served.values():
                with self._shelf.showing(model, self._next()):
                    pass
            return self._shelf.path

    def reload(self, server: Server) -> list[str]:
        """Have what has changed served instead, and return the names of the models that were loaded or removed.

        The files of all models are verified before anything else. Then one model after the other is loaded beside the
        one that serves; new requests go to the new one as soon as it is ready, and open ones stay where they are.

        Raises:
            ArtifactError: as when it was opened; everything is served as before.
            ServeError: Triton could not load a model: what served before still does, and models after it weren't tried.
        """
        with self._one_at_a_time:
            assert self._shelf
            found = open_repository(*self._paths)
            changed = [model for model in found.models if not self._serves(model)]
            for model in changed:
                model.verify(self._mode)
            for model in changed:
                self._replace(model, self._shelf, server)
            return [model.name for model in changed] + self._remove_all_but(found, self._shelf, server)

    def _serves(self, model: Model) -> bool:
        served = self._served.get(model.name)
        return served is not None and (served.folder, served.fingerprint) == (model.folder, model.fingerprint)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _replace(self, model: Model, shelf: Shelf, server: Server) -> None:
        with shelf.showing(model, self._next()):
            server.load(model.name, self._timeout)
        self._served[model.name] = model

    def _remove_all_but(self, found: Repository, shelf: Shelf, server: Server) -> list[str]:
        gone = sorted(set(self._served) - set(found.names))
        for name in gone:
            server.unload(name, self._timeout)
            shelf.remove(name)
            del self._served[name]
        return gone
