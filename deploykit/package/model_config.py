"""The `config.pbtxt` of a text-generation model."""

from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from deploykit.config import EngineConfig, PackageConfig

INPUTS: Final = (
    ("text_input", "TYPE_STRING", 1, True),
    ("stream", "TYPE_BOOL", 1, True),
    ("sampling_parameters", "TYPE_STRING", 1, True),
    ("exclude_input_in_output", "TYPE_BOOL", 1, True),
    ("return_finish_reason", "TYPE_BOOL", 1, True),
    ("return_cumulative_logprob", "TYPE_BOOL", 1, True),
    ("return_logprobs", "TYPE_BOOL", 1, True),
    ("return_num_input_tokens", "TYPE_BOOL", 1, True),
    ("return_num_output_tokens", "TYPE_BOOL", 1, True),
    ("max_tokens", "TYPE_INT32", 1, True),
    ("min_tokens", "TYPE_INT32", 1, True),
    ("temperature", "TYPE_FP32", 1, True),
    ("top_k", "TYPE_INT32", 1, True),
    ("top_p", "TYPE_FP32", 1, True),
    ("min_p", "TYPE_FP32", 1, True),
    ("repetition_penalty", "TYPE_FP32", 1, True),
    ("presence_penalty", "TYPE_FP32", 1, True),
    ("frequency_penalty", "TYPE_FP32", 1, True),
    ("stop", "TYPE_STRING", -1, True),
    ("seed", "TYPE_INT64", 1, True),
    ("ignore_eos", "TYPE_BOOL", 1, True),
    ("n", "TYPE_INT32", 1, True),
    ("client", "TYPE_STRING", 1, True),
    ("priority", "TYPE_INT32", 1, True),
    ("timeout", "TYPE_FP32", 1, True),
    ("stream_interval", "TYPE_INT32", 1, True),
    ("input_ids", "TYPE_INT64", -1, True),
    ("messages", "TYPE_STRING", 1, True),
    ("tools", "TYPE_STRING", 1, True),
)
"""Name, type, length (-1: any) and whether it may be left out. The first nine are those of Triton's vLLM backend; that
one of `text_input`, `input_ids` and `messages` is there is for the backend to see."""

OUTPUTS: Final = (
    ("text_output", "TYPE_STRING", -1),
    ("finish_reason", "TYPE_STRING", -1),
    ("cumulative_logprob", "TYPE_FP32", -1),
    ("logprobs", "TYPE_STRING", -1),
    ("num_input_tokens", "TYPE_UINT32", 1),
    ("num_output_tokens", "TYPE_UINT32", -1),
)
"""Name, type and length, as Triton's vLLM backend declares them."""

TUNABLE: Final = ("max_rows", "max_queue", "prefill_chunk")
"""Fields of `EngineConfig` written out as parameters, to be edited in place; the backend reads the others too."""


def model_config(config: PackageConfig) -> Any:
    """Return the model's configuration as a protobuf message."""
    message = pb.ModelConfig(name=config.name, backend="python", max_batch_size=0)
    for name, kind, length, optional in INPUTS:
        message.input.add(name=name, data_type=kind, dims=[length], optional=optional)
    for name, kind, length in OUTPUTS:
        message.output.add(name=name, data_type=kind, dims=[length])
    message.model_transaction_policy.decoupled = True
    # One instance: the engine batches all requests itself, and a second one would load the weights twice.
    message.instance_group.add(kind="KIND_CPU", count=1)
    message.version_policy.latest.num_versions = 1
    for name in TUNABLE:
        message.parameters[name].string_value = str(getattr(EngineConfig(), name))
    return message


def model_config_text(config: PackageConfig) -> str:
    """Return the configuration as protobuf text, the same bytes each time."""
    # Text format leaves out fields that have their default, and Triton would then take batching for granted.
    name, rest = text_format.MessageToString(model_config(config)).split("\n", 1)
    text = f"{name}\nmax_batch_size: 0\n{rest}"
    assert text_format.Parse(text, pb.ModelConfig()) == model_config(config)
    return text
