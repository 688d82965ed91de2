"""A profile of some steps: where their time goes."""

from pathlib import Path
from types import TracebackType
from typing import Final, Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from deploykit.train.record import Record
from deploykit.train.state import Place
from deploykit.train.validation import Validation

CHROME: Final = "trace.json"
"""For chrome://tracing or https://ui.perfetto.dev."""
TABLE: Final = "operators.txt"
DEAREST: Final = 10
"""Operators in the table."""
_SKIPPED: Final = 3
"""Steps before the first that is looked at: memory is allocated and kernels are chosen in them."""
_PROFILED: Final = 5


class Trace:
    """Profiles a few steps once the first are over."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profile = profile(
            activities=activities,
            schedule=schedule(skip_first=_SKIPPED, wait=0, warmup=1, active=_PROFILED, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )

    def __enter__(self) -> Self:
        self._profile.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._profile.stop()

    def stepped(self, place: Place, loss: float, rate: float) -> None:
        """Count a step."""
        del place, loss, rate
        self._profile.step()

    def validated(self, record: Record, validation: Validation) -> None:
        """Pass: a validation is no step."""
        del record, validation

    def _write(self, finished: profile) -> None:
        finished.export_chrome_trace(str(self._folder / CHROME))
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = finished.key_averages().table(sort_by=by, row_limit=DEAREST, max_name_column_width=60)
        (self._folder / TABLE).write_text(table + "\n", encoding="utf-8")
