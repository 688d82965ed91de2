"""A profile of some steps: where their time goes."""

from pathlib import Path
from types import TracebackType
from typing import Final, Self

import torch
from torch.profiler import profile

from deploykit.train.record import Record
from deploykit.train.state import Place
from deploykit.train.validation import Validation

CHROME: Final = "trace.json"
"""For chrome://tracing or https://ui.perfetto.dev."""
TABLE: Final = "operators.txt"
DEAREST: Final = 10
"""Operators in the table."""
_SKIPPED: Final = 2
"""Steps before the first that is looked at: in them memory is allocated and the optimizer's code is loaded."""
_PROFILED: Final = 5


class Trace:
    """Profiles a few steps once the first are over, or as many as there are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._steps = 0
        self._running: profile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._write()

    def stepped(self, place: Place, loss: float, rate: float) -> None:
        """Count a step."""
        del place, loss, rate
        self._steps += 1
        if self._steps == _SKIPPED:
            # Operators on a GPU are seen besides, where there is one.
            self._running = profile(record_shapes=True)
            self._running.start()
        elif self._steps == _SKIPPED + _PROFILED:
            self._write()

    def validated(self, record: Record, validation: Validation) -> None:
        """Pass: a validation is no step."""
        del record, validation

    def _write(self) -> None:
        if not self._running:
            return
        finished, self._running = self._running, None
        finished.stop()
        finished.export_chrome_trace(str(self._folder / CHROME))
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = finished.key_averages().table(sort_by=by, row_limit=DEAREST, max_name_column_width=60)
        (self._folder / TABLE).write_text(table + "\n", encoding="utf-8")
