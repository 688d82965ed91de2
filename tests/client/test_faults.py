"""From what a server reports to a typed error."""

import grpc
import pytest

from deploykit.client import errors
from deploykit.client.errors import (
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
from deploykit.client.faults import fault_of_message, fault_of_response, fault_of_status, in_mid_stream


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("UNAVAILABLE", UnavailableError),
        ("RESOURCE_EXHAUSTED", UnavailableError),
        ("DEADLINE_EXCEEDED", DeadlineExceededError),
        ("CANCELLED", CancelledError),
        ("INVALID_ARGUMENT", InvalidRequestError),
        ("OUT_OF_RANGE", InvalidRequestError),
        ("NOT_FOUND", NotFoundError),
        ("PERMISSION_DENIED", PermissionDeniedError),
        ("UNAUTHENTICATED", PermissionDeniedError),
        ("INTERNAL", ServerError),
        ("UNKNOWN", ServerError),
        ("UNIMPLEMENTED", ServerError),
    ],
)
def test_a_status_has_its_error(status: str, kind: type[ClientError]) -> None:
    fault = fault_of_status(status, "it\nis so", url="here:1")
    assert type(fault) is kind
    assert str(fault).startswith("here:1: ")
    assert "\n" not in str(fault)


def test_every_status_of_grpc_has_an_error() -> None:
    assert all(isinstance(fault_of_status(code.name, "", url="u"), ClientError) for code in grpc.StatusCode)


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        ("INVALID_ARGUMENT: max_tokens is 0", InvalidRequestError, "max_tokens is 0"),
        ("UNAVAILABLE: 1024 requests wait already", UnavailableError, "1024 requests wait already"),
        ("INTERNAL: the engine stopped", ServerError, "the engine stopped"),
        ("OSError: disk", ServerError, "OSError: disk"),
        ("TODO: x", ServerError, "TODO: x"),
        # The texts of Triton 2.51, as they arrive.
        (
            "Request for unknown model: 'nope' is not found",
            NotFoundError,
            "Request for unknown model: 'nope' is not found",
        ),
        (
            "Request for unknown model: 'lm' version 7 is not found",
            NotFoundError,
            "Request for unknown model: 'lm' version 7 is not found",
        ),
        (
            "Request for unknown model: 'lm' has no available versions",
            UnavailableError,
            "Request for unknown model: 'lm' has no available versions",
        ),
        (
            "unexpected inference input 'foo' for model 'lm'",
            InvalidRequestError,
            "unexpected inference input 'foo' for model 'lm'",
        ),
        (
            "[request id: <id_unknown>] inference input 'stop' data-type is 'FP32', but model 'lm' expects 'BYTES'",
            InvalidRequestError,
            "inference input 'stop' data-type is 'FP32', but model 'lm' expects 'BYTES'",
        ),
        ("Stub process 'lm_0_0' is not healthy.", UnavailableError, "Stub process 'lm_0_0' is not healthy."),
        ("anything else", ServerError, "anything else"),
    ],
)
def test_a_message_in_a_stream_has_its_error(message: str, kind: type[ClientError], text: str) -> None:
    fault = fault_of_message(message)
    assert type(fault) is kind
    assert str(fault) == text


@pytest.mark.parametrize("kind", [UnavailableError, ServerError, InvalidRequestError])
def test_any_end_of_an_answer_that_began_is_a_broken_stream(kind: type[ClientError]) -> None:
    fault = in_mid_stream(kind("gone"), text="so far", tokens=2)
    assert type(fault) is StreamBrokenError
    assert fault.text == "so far"
    assert str(fault) == "the stream broke after 2 tokens: gone"


@pytest.mark.parametrize("kind", [DeadlineExceededError, CancelledError])
def test_a_deadline_and_a_cancel_stay_what_they_are(kind: type[ClientError]) -> None:
    fault = in_mid_stream(kind("over"), text="so far", tokens=2)
    assert type(fault) is kind
    assert fault.text == "so far"


def test_each_error_ends_a_command_with_10() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert {kind.exit_code for kind in kinds} == {10}
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (
            "ipv4:127.0.0.1:9000: Failed parsing HTTP/2 (Expected SETTINGS frame as the first frame)",
            "no gRPC is spoken there; the gateway is http://localhost:9000, and Triton's gRPC port usually 8001",
        ),
        (
            "ipv6:%5B::1%5D:9000: Failed to connect to remote host: connect: Connection refused (111)",
            "unavailable: connection refused; check that the server runs there, and that this is Triton's",
        ),
    ],
)
def test_a_wrong_port_says_which_is_right(details: str, said: str) -> None:
    details = f"failed to connect to all addresses; last error: INTERNAL: {details}"
    fault = fault_of_status("UNAVAILABLE", details, url="localhost:9000")
    assert str(fault).startswith(f"localhost:9000: {said}")
    assert "ipv" not in str(fault)


def test_http_that_is_no_gateways_says_where_the_gateway_is_to_be_found() -> None:
    for error in (None, "Not Found"):
        fault = fault_of_response(404, error, url="http://localhost:8000")
        assert type(fault) is NotFoundError
        assert "OpenAI's API isn't there (HTTP status 404); give the gateway's address" in str(fault)


def test_who_has_no_key_is_told_where_it_goes() -> None:
    fault = fault_of_response(401, {"message": "a key, please", "type": "invalid_request_error"}, url="http://here")
    assert type(fault) is PermissionDeniedError
    assert str(fault) == "http://here: a key, please (a client's api_key=, a command's DEPLOYKIT_API_KEY)"


def test_one_token_is_one_token() -> None:
    assert str(in_mid_stream(ServerError("gone"), text="a", tokens=1)) == "the stream broke after 1 token: gone"
