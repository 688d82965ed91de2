"""Reading tensors: every float type, every way of storing them, damage at every place, and never all at once."""

import json
import resource
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from safetensors.torch import load_file, save_file

from deploykit.config import ConvertConfig
from deploykit.convert import convert
from deploykit.convert.weights import MAX_HEADER, open_weights
from deploykit.errors import CheckpointError


def read(folder: Path, name: str, *, allow_pickle: bool = False) -> Any:
    tensor = open_weights(folder, allow_pickle=allow_pickle).tensors[name]
    out = np.empty(tensor.shape, np.float32)
    tensor.read_into(out)
    return out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pickled", [False, True])
def test_reads_every_float_as_fp32(tmp_path: Path, dtype: torch.dtype, pickled: bool) -> None:
    values = torch.tensor([[0.0, -1.5, 3.0e-5], [6.0e4, 1 / 3, -0.0]]).to(dtype)
    if pickled:
        torch.save({"x": values}, tmp_path / "pytorch_model.bin")
    else:
        save_file({"x": values}, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(read(tmp_path, "x", allow_pickle=pickled), values.float().numpy())


def test_a_double_past_fp32_is_named(tmp_path: Path) -> None:
    save_file({"x": torch.tensor([1.0, 1e300], dtype=torch.float64)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor 'x' holds inf at element 1"):
        read(tmp_path, "x")


@pytest.mark.parametrize("form", ["bfloat16", "float16", "shards", "pickle", "pickle shards"])
def test_converts_the_same_model_from_any_form(tmp_path: Path, tiny_gpt2: Path, form: str) -> None:
    weights = load_file(tiny_gpt2 / "model.safetensors")
    dtype = getattr(torch, form, torch.float32)
    # What the narrow types keep, so that all forms hold the same numbers.
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    folder, plain = tmp_path / "form", tmp_path / "plain"
    for place in (folder, plain):
        place.mkdir()
        (place / "config.json").write_bytes((tiny_gpt2 / "config.json").read_bytes())
    save_file({name: tensor.float() for name, tensor in weights.items()}, plain / "model.safetensors")
    if form in ("pickle", "bfloat16", "float16"):
        save = torch.save if form == "pickle" else save_file
        save(weights, folder / ("pytorch_model.bin" if form == "pickle" else "model.safetensors"))
    else:
        _save_shards(folder, weights, pickled=form == "pickle shards")
    graphs = [
        convert(place, tmp_path / f"{place.name}.out", ConvertConfig(allow_pickle=True)).graph()
        for place in (folder, plain)
    ]
    one, other = (graph.with_name("model.onnx_data").read_bytes() for graph in graphs)
    assert one == other


def _save_shards(folder: Path, weights: dict[str, torch.Tensor], *, pickled: bool) -> None:
    base, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    index = {}
    for number, (name, tensor) in enumerate(weights.items()):
        file = f"{base}-{number:05}.{suffix}"
        (torch.save if pickled else save_file)({name: tensor}, folder / file)
        index[name] = file
    (folder / f"{base}.{suffix}.index.json").write_text(json.dumps({"weight_map": index}))


def test_takes_the_bare_base_models_names(tmp_path: Path, tiny_gpt2: Path) -> None:
    weights = load_file(tiny_gpt2 / "model.safetensors")
    (tmp_path / "config.json").write_bytes((tiny_gpt2 / "config.json").read_bytes())
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    save_file(bare, tmp_path / "model.safetensors")
    assert convert(tmp_path, tmp_path / "out", ConvertConfig(method="fused")).manifest.decoder.vocab_size == 318


def test_damage_at_each_hundredth_of_the_file_is_said_in_one_line(tmp_path: Path, tiny_llama: Path) -> None:
    whole = (tiny_llama / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    for part in range(100):
        place = len(whole) * part // 100
        (tmp_path / "model.safetensors").write_bytes(whole[:place])
        with pytest.raises(CheckpointError, match=r"model\.safetensors: not a sound safetensors file"):
            open_weights(tmp_path, allow_pickle=False)


@pytest.mark.parametrize("place", [0, 3, 7, 8, *range(9, 400, 23)])
def test_a_flipped_bit_in_the_header_is_no_traceback(tmp_path: Path, tiny_llama: Path, place: int) -> None:
    data = bytearray((tiny_llama / "model.safetensors").read_bytes())
    data[place] ^= 0x04
    (tmp_path / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(data)
    try:
        convert(tmp_path, tmp_path / "out")
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017  (a flipped bit in the format's metadata does no harm)


def test_a_flipped_bit_at_each_hundredth_is_one_line_or_a_model(tmp_path: Path, tiny_llama: Path) -> None:
    whole = (tiny_llama / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    convert(tiny_llama, tmp_path / "out")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = []
    for part in range(100):
        data = bytearray(whole)
        data[len(data) * part // 100] ^= 0x40
        (tmp_path / "model.safetensors").write_bytes(data)
        try:
            for tensor in open_weights(tmp_path, allow_pickle=False).tensors.values():
                tensor.read_into(np.empty(tensor.shape, np.float32))
            if part % 10 == 0:
                convert(tmp_path, tmp_path / "out", overwrite=True).verify()
        except CheckpointError as error:
            lines.append(str(error))
    assert lines
    assert not any("\n" in line for line in lines)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (len(whole) + 200e6) / 1024  # kB


def bomb(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


BOMBS = {
    "length past the file": bomb(b"{}", 2**63),
    "length past the limit": bomb(b" " * (MAX_HEADER + 1)),
    "huge axes": bomb(b'{"x":{"dtype":"F32","shape":[1152921504606846976,1152921504606846976],"data_offsets":[0,4]}}'),
    "hundred thousand tensors": bomb(
        json.dumps({f"t{i}": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 0]} for i in range(10**5)}).encode()
    ),
    "nested": bomb(b"[" * 10**6),
    "not JSON": bomb(b"\xff" * 100),
    "offsets backwards": bomb(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}'),
    "negative offsets": bomb(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'),
    "offsets past the end": bomb(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
}


@pytest.mark.parametrize("name", BOMBS)
def test_header_bombs_cost_no_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"not a sound safetensors file"):
            open_weights(tmp_path, allow_pickle=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(BOMBS[name]) + 200e6


def test_holds_about_one_tensor_at_a_time(tmp_path: Path) -> None:
    wide = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "head_dim": 64}
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", **wide, num_attention_heads=8)
    largest, total = 4 * 1024 * 512, (checkpoint / "model.safetensors").stat().st_size
    assert total > 25 * largest
    convert(checkpoint, tmp_path / "first")  # imports are not what is measured
    tracemalloc.start()
    try:
        convert(checkpoint, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The tensor, the block being transposed, the chunk being read and its mask; and the tokenizer's vocabulary.
    assert peak < 5 * largest, f"{peak / 1e6:.1f} MB of {total / 1e6:.1f}"
