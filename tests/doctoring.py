"""What the doctor is told of the packaged text model."""

from deploykit.doctor import Tensor, TextContract
from deploykit.package.model_config import INPUTS, OUTPUTS

CONTRACT = TextContract(
    inputs=[Tensor(name=name, kind=kind, dims=(size,), optional=free) for name, kind, size, free in INPUTS],
    outputs=[Tensor(name=name, kind=kind, dims=(size,)) for name, kind, size in OUTPUTS],
)
