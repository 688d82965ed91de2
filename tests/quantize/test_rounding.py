"""How weights are rounded: to nearest, by HQQ, by GPTQ."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deploykit.config import Rounding
from deploykit.errors import ArtifactError
from deploykit.quantize.blocks import Bits
from deploykit.quantize.gptq import Factor, factorize
from deploykit.quantize.rounding import Rounded, Scheme, quantize_weight

FloatArray = NDArray[np.float32]
RNG = np.random.default_rng(0)
BITS: list[Bits] = [4, 8]
ROUNDINGS: list[Rounding] = ["rtn", "hqq", "gptq"]
SYMMETRIC = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero-points"])


def padded(columns: int, block: int) -> int:
    return -(-columns // block) * block


def rounded(
    weight: FloatArray,
    bits: Bits = 4,
    block: int = 32,
    *,
    symmetric: bool = False,
    rounding: Rounding = "rtn",
    hessian: FloatArray | None = None,
) -> Rounded:
    factor: Factor | None = None
    if hessian is not None:
        factor = factorize(hessian.copy(), padded(weight.shape[1], block))
    scheme = Scheme(bits=bits, block=block, symmetric=symmetric, rounding=rounding)
    return quantize_weight(weight, scheme, name="w", factor=factor)


def error(weight: FloatArray, bits: Bits = 4, block: int = 32, **how: Any) -> FloatArray:
    return rounded(weight, bits, block, **how).blocks.weights(weight.shape[1]) - weight


def rms(array: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(array).mean()))


@pytest.fixture(scope="module")
def layer() -> tuple[FloatArray, FloatArray]:
    """Weights with outliers [N, K], and correlated inputs [n, K] with a mean, as a trained layer has."""
    columns = 200
    weight = (RNG.standard_t(4, (96, columns)) * 0.02).astype(np.float32)
    mixed = RNG.standard_normal((1000, 40)) @ RNG.standard_normal((40, columns))
    x = mixed + 0.3 * RNG.standard_normal((1000, columns)) + RNG.standard_normal(columns)
    return weight, x.astype(np.float32)


@SYMMETRIC
@pytest.mark.parametrize("bits", BITS)
def test_no_weight_moves_further_than_its_scale_allows(bits: Bits, symmetric: bool) -> None:
    weight = RNG.standard_normal((40, 96)).astype(np.float32)
    weight[0, :32] = 0
    weight[1, :32] = 1e-38
    weight[2, :32] = np.abs(weight[2, :32])
    weight[3, :32] = -np.abs(weight[3, :32])
    found = rounded(weight, bits, symmetric=symmetric)
    moved = np.abs(found.blocks.weights(96) - weight).reshape(40, 3, 32)
    steps = np.abs(found.blocks.scales[..., None])
    assert (moved[:2, 0] <= 1e-37).all()
    # Half a step, more where a range was clipped.
    assert (moved <= steps * 0.501 + 1e-37).mean() > 0.9
    if bits == 8:
        assert (moved <= steps * 1.001 + 1e-37).all()


@pytest.mark.parametrize(("bits", "block"), [(8, 32), (8, 128), (4, 32), (4, 128)])
def test_the_error_is_at_most_that_of_uniform_rounding(bits: Bits, block: int) -> None:
    weight = RNG.standard_normal((256, 1024)).astype(np.float32)
    # A step's width over the square root of twelve; the step is the block's largest weight over the levels of a side.
    largest = np.abs(weight).reshape(256, -1, block).max(axis=-1)
    uniform = rms(largest) / 2 ** (bits - 1) / np.sqrt(12)
    found = rms(error(weight, bits, block, symmetric=True))
    if bits == 8:
        assert found == pytest.approx(uniform, rel=0.05)
    else:
        assert 0.8 * uniform < found < uniform


@SYMMETRIC
@pytest.mark.parametrize("block", [32, 128])
def test_a_zero_point_and_hqq_lose_less(block: int, symmetric: bool, layer: tuple[FloatArray, FloatArray]) -> None:
    weight, x = layer
    nearest = rms(x @ error(weight, block=block, symmetric=True).T)
    assert rms(x @ error(weight, block=block, symmetric=False).T) < 0.95 * nearest
    hqq = error(weight, block=block, symmetric=symmetric, rounding="hqq")
    rtn = error(weight, block=block, symmetric=symmetric)
    # What HQQ minimises: outliers count less than in squares.
    assert (np.abs(hqq) ** 0.5).mean() < (np.abs(rtn) ** 0.5).mean()


@SYMMETRIC
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", [32, 128])
def test_gptq_loses_much_less_on_correlated_inputs(
    bits: Bits, block: int, symmetric: bool, layer: tuple[FloatArray, FloatArray]
) -> None:
    weight, x = layer
    rtn = rms(x @ error(weight, bits, block, symmetric=symmetric).T)
    found = rounded(weight, bits, block, symmetric=symmetric, rounding="gptq", hessian=x.T @ x)
    moved = found.blocks.weights(weight.shape[1]) - weight
    assert rms(x @ moved.T) < 0.5 * rtn
    # The sums that come with it are those of the outputs, up to the damping.
    damped = x.T @ x + 0.01 * np.eye(weight.shape[1]) * np.square(x).sum(axis=0).mean()
    assert found.error == pytest.approx(float(np.trace(moved @ damped @ moved.T)), rel=1e-2)
    assert found.power == pytest.approx(float(np.trace(weight @ damped @ weight.T)), rel=1e-2)


@SYMMETRIC
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("columns", [96, 81])
def test_gptq_without_correlation_is_rounding_to_nearest(bits: Bits, columns: int, symmetric: bool) -> None:
    weight = RNG.standard_normal((20, columns)).astype(np.float32)
    nearest = rounded(weight, bits, symmetric=symmetric).blocks
    found = rounded(
        weight, bits, symmetric=symmetric, rounding="gptq", hessian=np.eye(columns, dtype=np.float32)
    ).blocks
    np.testing.assert_array_equal(found.data, nearest.data)
    np.testing.assert_array_equal(found.scales, nearest.scales)


def test_a_hessian_is_its_factor_again_with_its_damping() -> None:
    x = RNG.standard_normal((300, 20)).astype(np.float32)
    x[:, 3] = 0
    hessian = x.T @ x
    factor = factorize(hessian.copy(), 32)
    whole = factor.upper * factor.weights @ factor.upper.T
    mean = np.diag(hessian).mean()
    wanted = hessian + 0.01 * mean * np.eye(20)
    wanted[3, 3] += mean
    np.testing.assert_allclose(whole[:20, :20], wanted, rtol=1e-4, atol=1e-2)
    assert not whole[:20, 20:].any()
    assert (np.diag(factor.upper) == 1).all()
    assert not np.tril(factor.upper, -1).any()


@pytest.mark.parametrize("rank", [0, 1])
def test_few_calibration_tokens_still_give_a_factor(rank: int) -> None:
    x = RNG.standard_normal((rank, 64)).astype(np.float32) * 1e3
    weight = RNG.standard_normal((8, 64)).astype(np.float32)
    assert rms(error(weight, rounding="gptq", hessian=x.T @ x)) < 0.5 * rms(weight)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_chunks_views_and_repetition_change_no_bit(
    rounding: Rounding, layer: tuple[FloatArray, FloatArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, x = layer
    hessian = x.T @ x if rounding == "gptq" else None
    whole = rounded(weight, rounding=rounding, hessian=hessian).blocks
    again = rounded(weight, rounding=rounding, hessian=hessian).blocks
    np.testing.assert_array_equal(again.data, whole.data)
    if rounding != "gptq":  # whose sums depend on how many rows a product has at once, in the last bit
        monkeypatch.setattr("deploykit.quantize.rounding._CHUNK", 1000)
    turned = np.asfortranarray(weight)
    parts = rounded(turned, rounding=rounding, hessian=hessian).blocks
    np.testing.assert_array_equal(parts.data, whole.data)
    np.testing.assert_array_equal(parts.scales, whole.scales)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_damaged_weight_is_refused_by_name(value: float, rounding: Rounding) -> None:
    weight = np.ones((4, 64), np.float32)
    weight[3, 63] = value
    with pytest.raises(ArtifactError, match=r"weight 'h\.0' holds NaN or Inf"):
        quantize_weight(weight, Scheme(bits=8, block=32, symmetric=True, rounding=rounding), name="h.0")
