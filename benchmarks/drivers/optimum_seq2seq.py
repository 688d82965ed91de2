"""optimum's answers to one task on stdin, in its environment: `python optimum_seq2seq.py < TASK`."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForSeq2SeqLM

task = json.load(sys.stdin)
model = ORTModelForSeq2SeqLM.from_pretrained(Path(task["root"]) / task["folder"], local_files_only=True)
rows = model.generate(
    input_ids=torch.tensor(task["input_ids"]),
    attention_mask=torch.tensor(task["attention_mask"]),
    do_sample=False,
    num_beams=1,
    max_new_tokens=task["tokens"],
)
print(json.dumps({"runtime": f"optimum-onnx {version('optimum-onnx')}", "rows": rows.tolist()}))
