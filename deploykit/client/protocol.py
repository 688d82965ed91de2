"""The messages of Triton's gRPC service that the client sends and reads.

They are described here, field by field, as the public Open Inference Protocol and Triton's extensions of it number
them, so that a client needs protobuf and gRPC and nothing of Triton's own. They live in a descriptor pool of their
own: `tritonclient`, which registers the same names in the default one, can be loaded beside them. What isn't described
is skipped on reading, as protobuf does with any unknown field.
"""

from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE: Final = "/inference.GRPCInferenceService/"
"""What a method's full name begins with."""

_PACKAGE: Final = "inference"
_SCALARS: Final = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "double": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
}


class Field(NamedTuple):
    """A field: its number, its name, its type (a scalar's or a message's name), and whether it repeats."""

    number: int
    name: str
    kind: str
    repeated: bool = False


_CHOICE: Final = "parameter_choice"
"""The oneof of InferParameter, which all of its fields belong to."""
_MESSAGES: Final[dict[str, tuple[Field, ...]]] = {
    "InferParameter": (
        Field(1, "bool_param", "bool"),
        Field(2, "int64_param", "int64"),
        Field(3, "string_param", "string"),
        Field(4, "double_param", "double"),
        Field(5, "uint64_param", "uint64"),
    ),
    "ModelInferRequest": (
        Field(1, "model_name", "string"),
        Field(2, "model_version", "string"),
        Field(3, "id", "string"),
        Field(4, "parameters", "ModelInferRequest.ParametersEntry", repeated=True),
        Field(5, "inputs", "ModelInferRequest.InferInputTensor", repeated=True),
        Field(7, "raw_input_contents", "bytes", repeated=True),
    ),
    "ModelInferRequest.ParametersEntry": (Field(1, "key", "string"), Field(2, "value", "InferParameter")),
    "ModelInferRequest.InferInputTensor": (
        Field(1, "name", "string"),
        Field(2, "datatype", "string"),
        Field(3, "shape", "int64", repeated=True),
    ),
    "ModelInferResponse": (
        Field(1, "model_name", "string"),
        Field(5, "outputs", "ModelInferResponse.InferOutputTensor", repeated=True),
        Field(6, "raw_output_contents", "bytes", repeated=True),
    ),
    "ModelInferResponse.InferOutputTensor": (Field(1, "name", "string"),),
    "ModelStreamInferResponse": (
        Field(1, "error_message", "string"),
        Field(2, "infer_response", "ModelInferResponse"),
    ),
    "RepositoryIndexRequest": (),
    "RepositoryIndexResponse": (Field(1, "models", "RepositoryIndexResponse.ModelIndex", repeated=True),),
    "RepositoryIndexResponse.ModelIndex": (
        Field(1, "name", "string"),
        Field(2, "version", "string"),
        Field(3, "state", "string"),
        Field(4, "reason", "string"),
    ),
    "ModelStatisticsRequest": (),
    "ModelStatisticsResponse": (Field(1, "model_stats", "ModelStatistics", repeated=True),),
    "ModelStatistics": (Field(1, "name", "string"), Field(2, "version", "string")),
    "ServerLiveRequest": (),
    "ServerLiveResponse": (Field(1, "live", "bool"),),
    "ServerReadyRequest": (),
    "ServerReadyResponse": (Field(1, "ready", "bool"),),
}
"""Each message's fields; a name with a dot is nested in the message before it."""


def _describe(name: str) -> descriptor_pb2.DescriptorProto:
    """Return the description of a message and of those nested in it."""
    description = descriptor_pb2.DescriptorProto(name=name.rpartition(".")[2])
    for field in _MESSAGES[name]:
        described = description.field.add(name=field.name, number=field.number)
        described.label = described.LABEL_REPEATED if field.repeated else described.LABEL_OPTIONAL
        if field.kind in _SCALARS:
            described.type = _SCALARS[field.kind]
        else:
            described.type = described.TYPE_MESSAGE
            described.type_name = f".{_PACKAGE}.{field.kind}"
        if name == "InferParameter":
            described.oneof_index = 0
    if name == "InferParameter":
        description.oneof_decl.add(name=_CHOICE)
    if name.endswith("Entry"):
        description.options.map_entry = True
    description.nested_type.extend(_describe(inner) for inner in _MESSAGES if inner.rpartition(".")[0] == name)
    return description


def _messages() -> dict[str, Any]:
    """Return the classes of the messages that aren't nested, by name."""
    outer = [name for name in _MESSAGES if "." not in name]
    file = descriptor_pb2.FileDescriptorProto(name="deploykit/client/inference.proto", package=_PACKAGE)
    file.syntax = "proto3"
    file.message_type.extend(_describe(name) for name in outer)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in outer}


MESSAGES: Final = _messages()
"""The classes of the messages by name."""
ModelInferRequest: Final = MESSAGES["ModelInferRequest"]
ModelInferResponse: Final = MESSAGES["ModelInferResponse"]
ModelStreamInferResponse: Final = MESSAGES["ModelStreamInferResponse"]
