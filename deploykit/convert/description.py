"""What a decoder looks like: all that a family says of itself, from which `decoder.py` writes the graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from deploykit.convert.blocks import ACTIVATIONS
from deploykit.convert.rotary import Rotary


class Unfit(Exception):  # noqa: N818 - no error of the user: the model is traced instead
    """A configuration has no fused graph; the message says what of it, to follow "since"."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the checkpoint calls its tensors; those of a layer without the layer's own beginning.

    A norm that is None isn't there: a block without `before_attention` attends to the residual stream itself.
    """

    embedding: str = "model.embed_tokens"
    positions: str | None = None
    """Table of learned positions."""
    layer: str = "model.layers"
    before_attention: str | None = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """Three matrices, or one that holds them one under the other."""
    query_norm: str = "self_attn.q_norm"
    key_norm: str = "self_attn.k_norm"
    output: str = "self_attn.o_proj"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    """Gate and up, one matrix that holds both, or up alone where there is no gate."""
    down: str = "mlp.down_proj"
    after_mlp: str | None = None
    final: str = "model.norm"
    head: str = "lm_head"


@dataclass(frozen=True, kw_only=True)
class Norm:
    """How hidden states are normalized, over their last axis."""

    kind: Literal["rms", "layer"] = "rms"
    epsilon: float
    weight: bool = True
    bias: bool = False
    offset: float = 0.0
    """Added to the stored weights; 1 in families that store them less 1."""


@dataclass(frozen=True, kw_only=True)
class HeadNorm:
    """How queries and keys are normalized."""

    norm: Norm
    over: Literal["head", "all", "each head"] = "head"
    """`head`: each by itself, with the same D weights; `each head`: with weights of its own; `all`: H * D at once."""
    after_rotary: bool = False
    listed: bool = False
    """Whether `each head` is a tensor of its own, NAME.norms.N, in place of rows of one."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What may differ between a model's layers."""

    scale: float
    """Factor of query times key."""
    rotary: Rotary | None = None
    window: int | None = None
    """How many tokens a query sees, itself included; None for all before it."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A whole decoder. The defaults are those of a Llama."""

    vocabulary: int
    width: int
    """E, size of the hidden state."""
    inner: int
    """Size inside the MLP."""
    heads: int
    shared_heads: int
    """Key/value heads."""
    head_size: int
    layers: Sequence[Layer]
    norm: Norm
    activation: str
    tied: bool
    """Whether the embedding table is the head too."""
    names: Names = Names()

    gated: bool = True
    """Whether the MLP multiplies the activated gate with up, or activates up alone."""
    parallel: bool = False
    """Whether attention and MLP both start from the same hidden state and are added together."""
    head_norm: HeadNorm | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    logit_bias: bool = False
    qkv_by_head: bool = False
    """Whether the one matrix of `names.qkv` holds query, key and value of head 0, then those of head 1, and so on."""
    inputs_first: bool = False
    """Whether the layers' matrices are stored [inputs, outputs]."""
    positions: int = 0
    """Rows of the table of learned positions."""
    embedding_norm: bool = False
    """Whether the embedding is normalized, without weights."""
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    """Factor of what attention and MLP add to the residual stream."""
    softcap: float = 0.0
    """Attention scores s become c * tanh(s / c); 0 for no such bound."""
    clip_qkv: float | None = None
    """Bound of what queries, keys and values may be."""
    logit_scale: float = 1.0
    logit_softcap: float = 0.0

    def __post_init__(self) -> None:
        """Raise `Unfit` where ONNX Runtime's kernels or our blocks can't do this."""
        reasons = {
            f"{self.heads} heads are no multiple of {self.shared_heads} key/value heads": bool(
                self.heads % self.shared_heads
            ),
            # Seen in ONNX Runtime 1.32's GroupQueryAttention: "head_size must be a multiple of 8".
            f"head size {self.head_size} is no multiple of 8": self.head_size % 8 != 0,
            f"activation {self.activation!r} has no fused form": self.activation not in (*ACTIVATIONS, XIELU),
        }
        for reason, holds in reasons.items():
            if holds:
                raise Unfit(reason)


XIELU: Final = "xielu"
"""An activation with weights: of every layer its own."""
