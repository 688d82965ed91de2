"""Every family of encoder-decoders equal to PyTorch, in every way its graphs are called."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from seq2seq_models import make_pair
from seq2seq_ways import EVERYWHERE, Graphs

from deploykit.convert import convert

CASES: dict[str, dict[str, Any]] = {
    "deploykit_transformer": {},
    "deploykit_transformer with norms first and three tables": {"norm_first": True, "share_embeddings": False},
    "t5": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
    "t5 gated, with a head of its own": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bart": {"decoder_layers": 3, "decoder_attention_heads": 2, "scale_embedding": True},
    "m2m_100": {},
    "marian": {"activation_function": "swish", "scale_embedding": True},
    "marian with two vocabularies": {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 306},
    "mbart": {"forced_bos_token_id": 7},
    "mt5": {"d_kv": 24, "feed_forward_proj": "gated-silu"},
    "pegasus": {"encoder_ffn_dim": 80},
}

Opened = Callable[[str], Graphs]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    root = tmp_path_factory.mktemp("pairs")

    @cache
    def open_graphs(case: str) -> Graphs:
        checkpoint = make_pair(root / case, case.partition(" ")[0], scale=0.1, **CASES[case])
        return Graphs(checkpoint, convert(checkpoint, root / f"{case} converted"))

    return open_graphs


@pytest.mark.parametrize("way", EVERYWHERE, ids=lambda way: way.__name__)
@pytest.mark.parametrize("case", CASES)
def test_the_graphs_give_pytorchs_logits(opened: Opened, case: str, way: Callable[[Graphs], None]) -> None:
    way(opened(case))
