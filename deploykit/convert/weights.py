"""A checkpoint's tensors, found without being read and read one at a time as fp32."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from deploykit.errors import CheckpointError, UnsupportedModelError

FloatArray = NDArray[np.float32]

SINGLE: Final = "model.safetensors"
PICKLE: Final = "pytorch_model.bin"
MAX_HEADER: Final = 16 << 20
"""Largest safetensors header that is read, in bytes: room for 150,000 tensors, and 200 MB once parsed."""
_MAX_JSON: Final = 64 << 20
"""Largest JSON file that is read, in bytes: room for the index of 300,000 tensors."""
_CHUNK: Final = 1 << 22
"""Elements read and converted at a time: 16 MB of fp32."""
_QUANTIZED: Final = frozenset(
    {"qweight", "qzeros", "g_idx", "SCB", "absmax", "weight_packed", "weight_scale", "weight_scale_inv"}
)
"""Last parts of the names that GPTQ, AWQ, bitsandbytes, compressed-tensors and fp8 give their tensors."""
_FLOATS: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_TORCH_TYPES: Final = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor that lies in a file."""

    name: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[FloatArray]]
    """Yields the elements in order, flat, a few megabytes at a time."""
    dtype: str = "F32"
    """Its type as safetensors names it."""

    def checked(self) -> Iterator[FloatArray]:
        """Yield what `chunks` does.

        Raises:
            CheckpointError: an element is NaN or infinite, or the file can't be read.
        """
        start = 0
        for chunk in self.chunks():
            if not np.isfinite(chunk).all():
                where = start + int(np.argmin(np.isfinite(chunk)))
                raise CheckpointError(
                    f"tensor {self.name!r} holds {chunk[where - start]} at element {where}; "
                    "the checkpoint is damaged or its training diverged, use an earlier one"
                )
            yield chunk
            start += chunk.size

    def read_into(self, out: FloatArray) -> None:
        """Fill `out`, a contiguous array of this tensor's shape.

        Raises:
            CheckpointError: an element is NaN or infinite, or the file can't be read.
        """
        flat, start = out.reshape(-1), 0
        for chunk in self.checked():
            flat[start : start + chunk.size] = chunk
            start += chunk.size


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Every tensor of a checkpoint, by name."""

    source: Path
    """The file or index that names them."""
    tensors: Mapping[str, StoredTensor]

    def find(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """Return the tensor `name`, which may also lack its first part, as in the bare base model's checkpoints.

        Raises:
            CheckpointError: there is none, or it doesn't have the shape that config.json implies.
        """
        tensor = self.tensors.get(name) or self.tensors.get(name.partition(".")[2])
        if tensor is None:
            raise CheckpointError(
                f"{self.source}: no tensor {name!r} among its {len(self.tensors)}; "
                "the checkpoint is incomplete or doesn't fit its config.json"
            )
        if tensor.shape != shape:
            raise CheckpointError(
                f"{self.source}: tensor {tensor.name!r} has the shape {list(tensor.shape)}, but config.json implies "
                f"{list(shape)}; the two don't belong together"
            )
        return tensor


def open_weights(folder: Path, *, allow_pickle: bool) -> Weights:
    """Return the tensors of the checkpoint in `folder`; nothing but headers is read.

    Raises:
        CheckpointError: there are no weights, they are damaged, or they are a pickle and `allow_pickle` is false.
    """
    if (folder / SINGLE).is_file():
        return Weights(source=folder / SINGLE, tensors=_read_header(folder / SINGLE))
    if (folder / f"{SINGLE}.index.json").is_file():
        return _open_shards(folder / f"{SINGLE}.index.json", _read_header)
    pickles = [name for name in (PICKLE, f"{PICKLE}.index.json") if (folder / name).is_file()]
    if not pickles:
        raise CheckpointError(
            f"{folder}: no {SINGLE} or {SINGLE}.index.json in it; is the checkpoint complete? "
            f"(of a hub id, {PICKLE} is only downloaded with --allow-pickle)"
        )
    if not allow_pickle:
        raise CheckpointError(
            f"{folder}: only a pickle ({pickles[0]}), a format that can hide code; "
            "save it as safetensors, or pass --allow-pickle to read its tensors and nothing else"
        )
    if pickles[0] == PICKLE:
        return Weights(source=folder / PICKLE, tensors=_read_pickle(folder / PICKLE))
    return _open_shards(folder / pickles[0], _read_pickle)


def check_types(weights: Weights) -> None:
    """Check that the weights are floating point numbers, as far as they can be told from masks and tables of integers.

    Raises:
        CheckpointError: naming a tensor that isn't, and what it may be.
    """
    for name, tensor in weights.tensors.items():
        last = name.rpartition(".")[2]
        if tensor.dtype.startswith(("F8_", "F6_", "F4")) or last in _QUANTIZED:
            raise UnsupportedModelError(
                f"{weights.source}: tensor {name!r} ({tensor.dtype}) shows that the weights are quantized already; "
                "convert the checkpoint it was made from, or save it dequantized (transformers: model.dequantize())"
            )
        if tensor.dtype not in _FLOATS and last in ("weight", "bias") and len(tensor.shape) in (1, 2):
            raise CheckpointError(
                f"{weights.source}: tensor {name!r} is of type {tensor.dtype}; only {', '.join(_FLOATS)} weights are "
                "read, so save the checkpoint in one of those"
            )


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    try:
        if (size := file.stat().st_size) > _MAX_JSON:
            raise CheckpointError(f"{file}: {size} bytes, more than a file of settings has; download it again")
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file.parent}: no {file.name} in it; is it a Hugging Face checkpoint?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: can't be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: holds a JSON {type(data).__name__}, not an object")
    return data


def _open_shards(index: Path, read: Callable[[Path], Mapping[str, StoredTensor]]) -> Weights:
    """Return the tensors that an index spreads over several files."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: has no 'weight_map'; download the checkpoint again")
    shards: dict[str, Mapping[str, StoredTensor]] = {}
    for shard in sorted(set(map(str, places.values()))):
        if Path(shard).name != shard or "\\" in shard or "\0" in shard:
            raise CheckpointError(f"{index}: names the shard {shard!r}, which lies outside the checkpoint's folder")
        if not (index.parent / shard).is_file():
            raise CheckpointError(f"{index.parent}: the shard {shard} is missing; download the checkpoint again")
        shards[shard] = read(index.parent / shard)
    for name, shard in places.items():
        if name not in shards[str(shard)]:
            raise CheckpointError(f"{index}: says that {shard} holds {name!r}, but it doesn't; download it again")
    return Weights(source=index, tensors={name: shards[str(shard)][name] for name, shard in places.items()})


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one safetensors file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8 or length > MAX_HEADER:
            raise CheckpointError(
                f"{file}: not a sound safetensors file: {size} bytes with a header of {length} "
                f"(at most {MAX_HEADER}); it was cut short or damaged, download it again"
            )
        try:
            # The format's own parser checks offsets, overlaps, holes, types and overflowing shapes.
            with safe_open(str(file), framework="numpy"):
                pass
            header = json.loads(stream.read(length))
        except (SafetensorError, ValueError, OSError, RecursionError) as error:
            raise CheckpointError(
                f"{file}: not a sound safetensors file: {error}; it was cut short or damaged, download it again"
            ) from error
    return {
        name: _stored(file, name, entry, data=8 + length) for name, entry in header.items() if name != "__metadata__"
    }


def _stored(file: Path, name: str, entry: Mapping[str, Any], *, data: int) -> StoredTensor:
    def chunks() -> Iterator[FloatArray]:
        if entry["dtype"] not in _FLOATS:
            raise CheckpointError(
                f"{file}: tensor {name!r} is of type {entry['dtype']}; only {', '.join(_FLOATS)} weights are read"
            )
        kind = np.dtype(_FLOATS[entry["dtype"]])
        start, end = (data + offset for offset in entry["data_offsets"])
        with file.open("rb") as stream:
            stream.seek(start)
            for left in range((end - start) // kind.itemsize, 0, -_CHUNK):
                words = np.fromfile(stream, kind, min(left, _CHUNK))
                if words.size != min(left, _CHUNK):
                    raise CheckpointError(f"{file}: ends within tensor {name!r}; download it again")
                yield _as_fp32(words)

    return StoredTensor(name=name, shape=tuple(entry["shape"]), chunks=chunks, dtype=str(entry["dtype"]))


def _as_fp32(words: NDArray[Any]) -> FloatArray:
    if words.dtype == np.uint16:
        # bfloat16 is the upper half of an fp32.
        return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore"):  # a float64 past fp32's range becomes infinite, which is reported by name
        return words.astype(np.float32, copy=False)


def _read_pickle(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a pickle, of which torch takes tensors and plain containers only."""
    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle, zip and torch each have errors of their own for what they refuse
        raise CheckpointError(
            f"{file}: can't be read as plain tensors: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: holds a {type(state).__name__}, not named tensors")

    def stored(name: str, tensor: torch.Tensor) -> StoredTensor:
        def chunks() -> Iterator[FloatArray]:
            flat = tensor.detach().reshape(-1)
            for start in range(0, flat.numel(), _CHUNK):
                yield flat[start : start + _CHUNK].float().numpy()

        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{file}: tensor {name!r} claims {tensor.numel()} elements, more than are stored; download it again"
            )
        kind = _TORCH_TYPES.get(str(tensor.dtype), str(tensor.dtype).removeprefix("torch."))
        return StoredTensor(name=name, shape=tuple(tensor.shape), chunks=chunks, dtype=kind)

    return {str(name): stored(str(name), tensor) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
