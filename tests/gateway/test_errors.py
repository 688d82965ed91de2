"""What a caller is told of a failure between the gateway and Triton."""

import pytest

from deploykit.client import (
    CancelledError,
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    StreamBrokenError,
    UnavailableError,
)
from deploykit.gateway.errors import refusal_of

ADDRESS = "triton.internal:8001"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequestError(f"{ADDRESS}: expected 9 inputs but got 8"), 400, None),
        (InvalidRequestError("the prompt has 9 tokens, but the context of 8 …"), 400, "context_length_exceeded"),
        (NotFoundError(f"{ADDRESS}: unknown model"), 404, "model_not_found"),
        (DeadlineExceededError(f"{ADDRESS}: no complete answer"), 504, "timeout"),
        (UnavailableError(f"{ADDRESS}: unavailable: connection refused"), 503, "unavailable"),
        (UnavailableError("the queue is full: 16 requests run and 9 wait"), 429, "rate_limit_exceeded"),
        (UnavailableError("Exceeds maximum queue size"), 429, "rate_limit_exceeded"),
        (CancelledError(f"{ADDRESS}: cancelled"), 503, "unavailable"),
        (StreamBrokenError(f"the stream broke after 3 tokens: {ADDRESS}"), 503, "unavailable"),
        (PermissionDeniedError(f"{ADDRESS}: no"), 500, None),
        (ServerError(f"{ADDRESS}: /opt/model.onnx"), 500, None),
    ],
)
def test_a_failure_has_a_status_and_no_address(error: ClientError, status: int, code: str | None) -> None:
    refusal = refusal_of(error)
    assert (refusal.status, refusal.code) == (status, code)
    assert "triton.internal" not in str(refusal)
    assert "/opt" not in str(refusal)
    assert (refusal.retry_after is not None) == (status in (429, 503))
