"""Operations spelt so that the exporter knows them: views, and the inverse error function."""

from collections.abc import Callable
from typing import Any, Final

import torch
from onnxscript import opset18 as op
from torch.overrides import TorchFunctionMode

_MIDDLE: Final = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_TAILS: Final = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)
"""Polynomials of erfinv in single precision, for the middle and the tails: M. Giles, "Approximating the erfinv
function", GPU Computing Gems, 2011."""


class Spelling(TorchFunctionMode):
    """Writes views in another way where the exporter doesn't know the usual one.

    Axes of complex tensors are added and indexed through their real view, since ONNX has no complex numbers. A slice
    of an axis of 1 from a computed place on is the whole axis.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what `func` returns."""
        del types
        if func is torch.Tensor.__getitem__ and isinstance(args[1], tuple):
            args = (args[0], _without_computed_starts(args[0], args[1]))
        if not (args and isinstance(args[0], torch.Tensor) and args[0].is_complex()):
            return func(*args, **(kwargs or {}))
        if func in (torch.unsqueeze, torch.Tensor.unsqueeze):
            axis = args[1] if len(args) > 1 else (kwargs or {})["dim"]
            axis = axis if axis >= 0 else axis + args[0].dim() + 1
            return torch.view_as_complex(torch.view_as_real(args[0]).unsqueeze(axis))
        if func is torch.Tensor.__getitem__ and isinstance(args[1], tuple) and Ellipsis not in args[1]:
            # Trailing axes that aren't indexed come with the real and imaginary parts.
            return torch.view_as_complex(torch.view_as_real(args[0])[args[1]])
        return func(*args, **(kwargs or {}))


def _without_computed_starts(tensor: torch.Tensor, index: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return an index of slices with axes of 1 taken whole that begin at a computed place: else they were empty."""
    if not all(isinstance(part, slice) for part in index):
        return index
    return tuple(
        slice(None) if size == 1 and part.stop is None and isinstance(part.start, torch.SymInt) else part
        for part, size in zip(index, tensor.shape, strict=False)
    )


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return PyTorch's operators that the exporter lacks, each with a function that writes it in ONNX."""
    return {torch.ops.prims.erf_inv.default: _erfinv}


def _erfinv(x: Any) -> Any:
    """Write erfinv of x, in fp32."""
    w = op.Neg(op.Log(op.Mul(op.Sub(1.0, x), op.Add(1.0, x))))
    middle, tails = op.Sub(w, 2.5), op.Sub(op.Sqrt(w), 3.0)
    chosen = op.Where(op.Less(w, 5.0), _polynomial(middle, _MIDDLE), _polynomial(tails, _TAILS))
    return op.Mul(chosen, x)


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    value = op.Constant(value_float=coefficients[0])
    for coefficient in coefficients[1:]:
        value = op.Add(op.Mul(value, x), coefficient)
    return value
