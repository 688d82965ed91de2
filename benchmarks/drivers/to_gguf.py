"""A Llama checkpoint as GGUF in f32, q8_0 and q4_0: `python to_gguf.py CHECKPOINT FOLDER`, in llama.cpp's environment.

The tensors and names of llama.cpp's own converter. Prompts are token ids, so no vocabulary is written; the 8 and 4 bits
are those of llama.cpp's quantizer, with its defaults (a head of more bits than the layers among them).
"""

import json
import sys
from pathlib import Path

import gguf
import llama_cpp as cpp
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
"""Hugging Face's part of a layer → GGUF's."""
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def main() -> None:
    checkpoint, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "f32.gguf"
    write(checkpoint, plain)
    for name, kind in (("q8_0", cpp.LLAMA_FTYPE_MOSTLY_Q8_0), ("q4_0", cpp.LLAMA_FTYPE_MOSTLY_Q4_0)):
        params = cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = kind, 2
        if cpp.llama_model_quantize(str(plain).encode(), str(folder / f"{name}.gguf").encode(), params):
            sys.exit(f"llama.cpp can't quantize to {name}")


def write(checkpoint: Path, file: Path) -> None:
    """Write the checkpoint in f32."""
    config = json.loads((checkpoint / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        writer.add_tensor(rename(name), turn(name, tensor, heads, kv_heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rename(name: str) -> str:
    """Return GGUF's name of a tensor."""
    if name in TOP:
        return TOP[name]
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{NAMES[part.removesuffix('.weight')]}.weight"


def turn(name: str, tensor: NDArray[np.float32], heads: int, kv_heads: int) -> NDArray[np.float32]:
    """Return the tensor as llama.cpp wants it: it turns neighbouring pairs of a head, Hugging Face the two halves."""
    part = name.split(".")[-2]
    if part not in ("q_proj", "k_proj"):
        return tensor
    count = heads if part == "q_proj" else kv_heads
    halves = tensor.reshape(count, 2, -1, tensor.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))


if __name__ == "__main__":
    main()
