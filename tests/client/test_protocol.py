"""Our description of Triton's messages against Triton's own."""

import subprocess
import sys
from typing import Any

import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deploykit.client.protocol import MESSAGES, SERVICE, ModelInferRequest


def facts(field: Any) -> tuple[Any, ...]:
    message = field.message_type and field.message_type.full_name
    oneof = field.containing_oneof and field.containing_oneof.name
    return (field.name, field.type, field.is_repeated, field.has_presence, message, oneof)


def differences(ours: Any, theirs: Any) -> list[str]:
    """What a message, or one nested in it, has that Triton's has not, or has otherwise."""
    found = [] if ours.full_name == theirs.full_name else [f"{ours.full_name} is {theirs.full_name}"]
    if ours.GetOptions().map_entry != theirs.GetOptions().map_entry:
        found.append(f"{ours.full_name}: map")
    for number, field in ours.fields_by_number.items():
        other = theirs.fields_by_number.get(number)
        if other is None or facts(field) != facts(other):
            found.append(f"{ours.full_name}: {facts(field)}")
        elif field.message_type:
            found += differences(field.message_type, other.message_type)
    return found


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_is_as_triton_has_it(name: str) -> None:
    assert differences(MESSAGES[name].DESCRIPTOR, getattr(service_pb2, name).DESCRIPTOR) == []


def test_a_difference_would_be_found() -> None:
    ours = MESSAGES["ModelInferRequest"].DESCRIPTOR
    assert differences(ours, service_pb2.ModelInferResponse.DESCRIPTOR)
    assert differences(MESSAGES["InferParameter"].DESCRIPTOR, service_pb2.InferTensorContents.DESCRIPTOR)


def test_what_we_write_triton_reads_and_back() -> None:
    ours = ModelInferRequest(model_name="m", id="r")
    ours.parameters["traceparent"].string_param = "00"
    ours.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    ours.raw_input_contents.append(b"\0\1")
    theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert (theirs.model_name, theirs.id, theirs.parameters["traceparent"].string_param) == ("m", "r", "00")
    assert ModelInferRequest.FromString(theirs.SerializeToString()) == ours


def test_the_methods_are_the_services() -> None:
    methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    assert f"/{service_pb2.DESCRIPTOR.package}.GRPCInferenceService/" == SERVICE
    assert methods["ModelStreamInfer"].server_streaming
    for name in ("RepositoryIndex", "ModelStatistics", "ServerLive", "ServerReady"):
        assert (methods[name].input_type.name, methods[name].output_type.name) == (f"{name}Request", f"{name}Response")
    assert service_pb2_grpc.GRPCInferenceServiceStub


@pytest.mark.parametrize("order", [("deploykit.client.protocol", "tritonclient.grpc"), ("tritonclient.grpc",)])
def test_both_can_be_loaded_in_one_process(order: tuple[str, ...]) -> None:
    code = f"import {', '.join(order)}, deploykit.client.protocol as ours; print(ours.ModelInferRequest(id='a').id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "a"
