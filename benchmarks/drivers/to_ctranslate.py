"""A checkpoint in CTranslate2's format: `python to_ctranslate.py CHECKPOINT FOLDER QUANTIZATION`, in its environment.

Its converter wants a name for every token of the vocabulary, and it generates from names: token 7 is called t7 here.
"""

import json
import sys
import tempfile
from pathlib import Path

from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast


def main() -> None:
    checkpoint, folder, quantization = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    with tempfile.TemporaryDirectory() as name:
        for file in ("config.json", "model.safetensors"):
            (Path(name) / file).symlink_to((checkpoint / file).resolve())
        size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
        names = Tokenizer(models.WordLevel({f"t{number}": number for number in range(size)}, unk_token="t0"))
        PreTrainedTokenizerFast(tokenizer_object=names, bos_token="t0", eos_token="t1", unk_token="t0").save_pretrained(
            name
        )
        TransformersConverter(name).convert(folder, quantization=quantization, force=True)


if __name__ == "__main__":
    main()
