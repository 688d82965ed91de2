"""Fused graphs: equal to PyTorch and to the traced graph in every way they are called."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from checkpoints import make_checkpoint
from numpy.typing import NDArray
from onnx import TensorProto, helper
from transformers import CONFIG_MAPPING, LlamaConfig
from ways import EVERYWHERE, IDS, IN_PLACE, assert_close, left_padded, ones, prefill, right_padded_in_place

from deploykit.config import ConvertConfig
from deploykit.convert import convert, torch_reference
from deploykit.convert.fused import why_not_fused
from deploykit.errors import UnsupportedModelError
from deploykit.validate.decoder import Decoder


@pytest.mark.parametrize("way", [*EVERYWHERE, *IN_PLACE])
def test_fused_equals_pytorch(trio: Any, way: Callable[..., None]) -> None:
    way(trio.fused, trio.pytorch)


@pytest.mark.parametrize("way", EVERYWHERE)
def test_traced_equals_pytorch(trio: Any, way: Callable[..., None]) -> None:
    way(trio.traced, trio.pytorch)


def test_fused_equals_traced_with_its_cache(trio: Any) -> None:
    ids, mask = np.stack([IDS[:9], np.r_[ones(4), IDS[:5]]]), np.stack([ones(9), np.r_[0 * ones(4), ones(5)]])
    (fused, fused_cache), (traced, traced_cache) = trio.fused.run(ids, mask), trio.traced.run(ids, mask)
    assert_close(fused[0], traced[0])
    assert_close(fused[1, 4:], traced[1, 4:])
    assert_close(fused_cache[1][0], traced_cache[1][0])  # values: no position in them
    assert [c.shape for c in fused_cache] == [c.shape for c in traced_cache]
    for part in (0, 2):  # a row without padding: the same positions, so the same rotated keys
        assert_close(fused_cache[part][0], traced_cache[part][0])


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "head size apart from hidden/heads": ("llama", {"head_dim": 32}),
    "small head size": ("qwen2", {"head_dim": 16, "hidden_size": 96, "num_attention_heads": 6}),
    "one key/value head": ("llama", {"num_key_value_heads": 1}),
    "as many key/value heads": ("qwen2", {"num_key_value_heads": 4}),
    "odd number of heads": (
        "llama",
        {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 48},
    ),
    "odd widths": ("llama", {"hidden_size": 52, "head_dim": 16, "intermediate_size": 37}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "untied": ("qwen2", {"tie_word_embeddings": False}),
    "one layer": ("llama", {"num_hidden_layers": 1}),
    "gelu": ("llama", {"hidden_act": "gelu"}),
    "another base": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "llama3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "yarn": (
        "qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "window that is off": ("qwen2", {"use_sliding_window": False, "sliding_window": 4}),
    "gpt2 head size 8": ("gpt2", {"n_embd": 24, "n_head": 3}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt2 inner width": ("gpt2", {"n_inner": 50}),
    "gpt2 scale by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3}),
    "gpt2 no scale": ("gpt2", {"scale_attn_weights": False}),
    **{f"gpt2 {kind}": ("gpt2", {"activation_function": kind}) for kind in ("gelu", "relu", "silu", "tanh")},
    **{f"gpt2 {kind}": ("gpt2", {"activation_function": kind}) for kind in ("quick_gelu", "gelu_fast")},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_odd_shapes(tmp_path: Path, shape: str) -> None:
    model_type, fields = SHAPES[shape]
    # gpt2 without 1/sqrt(size) has scores so large that softmax is a step, which no two orders of summation share.
    scale = 0.1 if shape == "gpt2 no scale" else 0.2
    checkpoint = make_checkpoint(tmp_path / "checkpoint", model_type, scale=scale, **fields)
    artifact = convert(checkpoint, tmp_path / "out", ConvertConfig(method="fused"))
    run, reference = Decoder(artifact.graph(), artifact.manifest.decoder), torch_reference(checkpoint)
    for way in (prefill, left_padded, right_padded_in_place):
        way(run, reference)


@pytest.mark.parametrize(
    ("fields", "rotary"),
    [
        ({"rope_theta": 5e5}, {"rope_type": "default", "rope_theta": 5e5}),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
        ),
    ],
)
def test_reads_the_rotary_fields_of_older_checkpoints(
    tmp_path: Path, fields: dict[str, Any], rotary: dict[str, Any]
) -> None:
    new = make_checkpoint(tmp_path / "new", "llama", rope_parameters=rotary)
    old = Path(shutil.copytree(new, tmp_path / "old"))
    config = json.loads((old / "config.json").read_text())
    del config["rope_parameters"]
    (old / "config.json").write_text(json.dumps(config | fields))
    one, other = (convert(f, tmp_path / f"{f.name}.out").graph().with_name("model.onnx_data") for f in (new, old))
    assert one.read_bytes() == other.read_bytes()


UNFIT: dict[str, tuple[str, dict[str, Any]]] = {
    "sliding_window is 0": ("mistral", {"sliding_window": 0}),
    "head size 12 is no multiple of 8": ("llama", {"head_dim": 12}),
    "head size 20 is no multiple of 8": ("gpt2", {"n_embd": 80}),
    "hidden size 66 is no multiple of 4 heads": ("gpt2", {"n_embd": 66}),
    "4 heads are no multiple of 3 key/value heads": ("llama", {"num_key_value_heads": 3}),
    "rotary type 'proportional'": ("llama", {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}}),
    "8 of 16 elements of each head": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "rotary embedding has mrope_section": (
        "qwen2",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
    ),
    "rotary embedding has alpha": (
        "hunyuan_v1_dense",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "alpha": 2.0}},
    ),
    "a layer's type is 'chunked_attention'": ("qwen3", {"layer_types": ["full_attention", "chunked_attention"]}),
    "sliding_window is None": ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}),
    "activation 'leaky_relu'": ("llama", {"hidden_act": "leaky_relu"}),
    "activation 'laplace'": ("gpt2", {"activation_function": "laplace"}),
    "cross-attention": ("gpt2", {"add_cross_attention": True}),
    "use_bidirectional_attention = True": ("gemma", {"use_bidirectional_attention": True}),
    "attn_logit_softcapping = 50.0": ("gemma3_text", {"attn_logit_softcapping": 50.0}),
    "can't be understood (ZeroDivisionError": ("llama", {"num_key_value_heads": 0}),
    "model type 'opt' is not among apertus, arcee, ": ("opt", {}),
}


@pytest.mark.parametrize("reason", UNFIT)
def test_says_why_it_takes_the_traced_way(reason: str) -> None:
    model_type, fields = UNFIT[reason]
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, "num_hidden_layers": 2}
    config = CONFIG_MAPPING[model_type](**({"n_head": 4} if model_type == "gpt2" else sizes) | fields)
    assert reason in str(why_not_fused(config))


class OwnConfig(LlamaConfig):  # type: ignore[misc]
    """A configuration of a known model type, of code that came with a checkpoint."""


def test_a_checkpoint_with_code_of_its_own_takes_the_traced_way() -> None:
    assert why_not_fused(LlamaConfig()) is None
    assert "its code comes with the checkpoint" in str(why_not_fused(OwnConfig()))


def test_fused_is_refused_where_it_was_asked_for(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", head_dim=12)
    with pytest.raises(UnsupportedModelError, match=r"head size 12 .* --method auto or traced"):
        convert(checkpoint, tmp_path / "out", ConvertConfig(method="fused"))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(("size", "rotated", "fits"), [(8, False, True), (8, True, False), (12, False, False)])
def test_the_kernel_has_the_limits_we_state(size: int, rotated: bool, fits: bool) -> None:
    tables = ["cos", "sin"] if rotated else []
    inputs: dict[str, NDArray[Any]] = {
        "packed": np.ones((1, 2, 3 * size), np.float32),
        "key": np.ones((1, 1, 0, size), np.float32),
        "value": np.ones((1, 1, 0, size), np.float32),
        "last": np.array([1], np.int32),
        "total": np.array(2, np.int32),
        **{name: np.ones((4, size // 2), np.float32) for name in tables},
    }
    names = ["packed", "", "", *list(inputs)[1:]]
    node = helper.make_node(
        "GroupQueryAttention",
        names,
        ["y", "k", "v"],
        domain="com.microsoft",
        num_heads=1,
        kv_num_heads=1,
        do_rotary=int(rotated),
    )
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "k", "v")]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "one", declared, outputs)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    if fits:
        assert session.run(["y"], inputs)[0].shape == (1, 2, size)
        return
    with pytest.raises(Exception, match=r"head_size (must|shall) be a multiple of"):
        session.run(["y"], inputs)


@pytest.mark.parametrize(("keep", "rows"), [(0, 5), (1, 1), (3, 3), (9, 5), (None, 5)])
def test_gives_the_logits_that_were_asked_for(trio: Any, keep: int | None, rows: int) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(trio.fused.file), options)
    mask = np.array([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]])
    feeds = {"input_ids": np.stack([np.r_[IDS[:4], 1], np.r_[1, IDS[:4]]]), "attention_mask": mask}
    feeds |= {t.name: c for t, c in zip(trio.fused.spec.past(), trio.fused.empty_cache(2), strict=True)}
    if keep is not None:
        feeds["num_logits_to_keep"] = np.array(keep)
    logits = session.run(["logits"], feeds)[0]
    assert logits.shape[:2] == (2, rows)
    wanted = trio.pytorch(IDS[:4])
    if rows < 5:
        assert_close(logits[0], wanted[-rows:])
        assert_close(logits[1], wanted[-rows:])
    else:
        assert_close(logits[0, :4], wanted)
        assert_close(logits[1, 1:], wanted)


def test_the_graph_is_the_contract(trio: Any) -> None:
    model, spec = ir.load(trio.fused.file), trio.fused.spec
    assert (spec.cache, spec.logits_to_keep, model.ir_version) == ("shared", True, 10)
    assert model.opset_imports == {"": 20, "com.microsoft": 1}
    for found, wanted in ((model.graph.inputs, spec.inputs()), (model.graph.outputs, spec.outputs())):
        assert [value.name for value in found] == [tensor.name for tensor in wanted]
        for value, tensor in zip(found, wanted, strict=True):
            assert value.shape is not None
            assert tuple(a if isinstance(a, int) else a.value for a in value.shape) == tensor.shape
    default = model.graph.initializers["num_logits_to_keep"].const_value
    assert default is not None
    assert default.numpy() == 0
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("GroupQueryAttention") == 2
    assert sum(kind.startswith("Skip") for kind in kinds) == 4
    assert all(node.name for node in model.graph)


def test_no_weight_lies_in_the_graph_file(trio: Any) -> None:
    """What makes models past 2 GB work: protobuf ends there, offsets into the data file don't."""
    model = ir.load(trio.fused.file)
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        assert isinstance(value.const_value, ir.ExternalTensor) or value.const_value.nbytes < 1024, name
    assert trio.fused.file.stat().st_size < 40_000
