"""A training in TensorBoard: curves, texts, and what attends to what."""

from pathlib import Path
from types import TracebackType
from typing import Final, Self

from deploykit.train.record import Record
from deploykit.train.state import Place
from deploykit.train.validation import Validation
from deploykit.train.watch.attention import attention_picture

_EVERY: Final = 10
"""Steps for which one point is drawn."""


class Board:
    """Writes what TensorBoard shows of a folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._writer.close()

    def stepped(self, place: Place, loss: float, rate: float) -> None:
        """Draw the loss and the speed now and then."""
        if place.step == 1 or place.step % _EVERY == 0:
            speed = place.tokens / max(place.training_seconds, 1e-9)
            figures = {"train/loss": loss, "train/learning_rate": rate, "train/tokens_per_second": speed}
            self._scalars(figures, place.step)

    def validated(self, record: Record, validation: Validation) -> None:
        """Draw the validation's figures; show what the model makes of some texts, and what it attends to in one."""
        figures = {f"val/{name}": value for name, value in record.metrics.items()}
        self._scalars({"val/loss": record.val_loss, "train/mean_loss": record.train_loss, **figures}, record.step)
        for place, text in enumerate(validation.samples()):
            self._writer.add_text(f"samples/{place + 1}", text, record.step)
        for one in validation.attention():
            picture = attention_picture(one.weights.numpy(), one.rows, one.columns, title=f"{one.kind}, last layer")
            self._writer.add_image(f"attention/{one.kind}", picture, record.step, dataformats="HWC")
        self._writer.flush()

    def _scalars(self, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
