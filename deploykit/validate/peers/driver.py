"""Runs greedy generations in another runtime; a script for that runtime's own environment.

    python driver.py RUNTIME REQUEST.json ANSWER.npz

It imports the runtime and numpy, nothing of deploykit: runtimes pin versions that deploykit doesn't run with. For each
case the answer holds `NAME/tokens`, int64 [B, steps], and `NAME/logits`, float32 [B, steps, V]: those that each token
was chosen by. After a row's end-of-text token whatever the runtime likes may follow.
"""

import importlib
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Answer = tuple[NDArray[np.int64], NDArray[np.float32]]
Run = Callable[[list[list[int]], int], Answer]
"""Greedy tokens and logits of some rows, padded as the runtime itself does it."""


def main(runtime: str, request_file: str, answer_file: str) -> None:
    """Run every case of a request, telling which one on stdout, and the versions last."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    print("opening the artifact", flush=True)
    package, run = OPENERS[runtime](request)
    answers: dict[str, Any] = {}
    for name, rows in request["cases"].items():
        print(name, flush=True)
        answers[f"{name}/tokens"], answers[f"{name}/logits"] = run(rows, request["steps"])
    np.savez(answer_file, **answers)
    print(json.dumps({"runtime": f"{package} {version(package)}", "onnxruntime": _onnxruntime()}))


def open_genai(request: dict[str, Any]) -> tuple[str, Run]:
    """Return onnxruntime-genai on the artifact: its own cache in place, padded on the right by the pad token."""
    genai: Any = importlib.import_module("onnxruntime_genai")
    config = genai.Config(request["folder"])
    # The folder's own file names fp32's graph.
    decoder = {"filename": request["graph"], "session_options": request["session"]}
    config.overlay(json.dumps({"model": {"decoder": decoder}}))
    model = genai.Model(config)

    def run(rows: list[list[int]], steps: int) -> Answer:
        width = max(map(len, rows))
        params = genai.GeneratorParams(model)
        params.set_search_options(do_sample=False, batch_size=len(rows), max_length=width + steps)
        generator = genai.Generator(model, params)
        generator.append_tokens(_padded(rows, request["pad"], left=False)[0].astype(np.int32))
        tokens: list[Any] = []
        logits: list[Any] = []
        while len(tokens) < steps and not generator.is_done():
            logits.append(np.array(generator.get_logits(), np.float32)[:, -1])
            generator.generate_next_token()
            tokens.append(np.array(generator.get_next_tokens(), np.int64))
        return _joined(tokens, logits)

    return "onnxruntime-genai", run


def open_optimum(request: dict[str, Any]) -> tuple[str, Run]:
    """Return optimum's `ORTModelForCausalLM` on the artifact: its cache concatenated, padded on the left."""
    torch: Any = importlib.import_module("torch")
    optimum: Any = importlib.import_module("optimum.onnxruntime")
    graph, options = Path(request["graph"]), _options(request)
    model = optimum.ORTModelForCausalLM.from_pretrained(
        request["folder"],
        subfolder=str(graph.parent),
        file_name=graph.name,
        session_options=options,
        local_files_only=True,
    )

    def run(rows: list[list[int]], steps: int) -> Answer:
        ids, mask = _padded(rows, request["pad"], left=True)
        output = model.generate(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            max_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            pad_token_id=request["pad"],
            return_dict_in_generate=True,
            output_logits=True,
        )
        return _joined(
            list(output.sequences[:, ids.shape[1] :].numpy().T), [part.float().numpy() for part in output.logits]
        )

    return "optimum-onnx", run


def open_onnxruntime(request: dict[str, Any]) -> tuple[str, Run]:
    """Return ONNX Runtime alone on the graph, as any program may call it: cache concatenated, padded on the left."""
    runtime: Any = importlib.import_module("onnxruntime")
    file = Path(request["folder"]) / request["graph"]
    session = runtime.InferenceSession(str(file), _options(request), providers=["CPUExecutionProvider"])

    def run(rows: list[list[int]], steps: int) -> Answer:
        ids, mask = _padded(rows, request["pad"], left=True)
        past = [np.zeros((len(rows), heads, 0, size), request["cache_dtype"]) for heads, size in request["cache"]]
        tokens, logits = [], []
        for _ in range(steps):
            feeds = {"input_ids": ids, "attention_mask": mask, **dict(zip(request["past"], past, strict=True))}
            every, *past = session.run(["logits", *request["present"]], feeds)
            logits.append(every[:, -1])
            tokens.append(logits[-1].argmax(axis=-1))
            ids = tokens[-1][:, None]
            mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
        return _joined(tokens, logits)

    return "onnxruntime", run


OPENERS: dict[str, Callable[[dict[str, Any]], tuple[str, Run]]] = {
    "genai": open_genai,
    "optimum": open_optimum,
    "onnxruntime": open_onnxruntime,
}


def _options(request: dict[str, Any]) -> Any:
    """Return the session options that the artifact's documentation asks for."""
    options = importlib.import_module("onnxruntime").SessionOptions()
    options.log_severity_level = 3  # OrtLoggingLevel: a graph input with a default is a warning, and meant
    for name, value in request["session"].items():
        options.add_session_config_entry(name, value)
    return options


def _padded(rows: list[list[int]], pad: int, *, left: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows as one array and their mask, both [B, S]."""
    ids = np.full((len(rows), max(map(len, rows))), pad, np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(ids.shape[1] - len(row), None) if left else slice(len(row))
        ids[number, place], mask[number, place] = row, 1
    return ids, mask


def _joined(tokens: list[Any], logits: list[Any]) -> Answer:
    return np.stack(tokens, axis=1).astype(np.int64), np.stack(logits, axis=1).astype(np.float32)


def _onnxruntime() -> str:
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return version(package)
        except ModuleNotFoundError:
            continue
    return "unknown"


if __name__ == "__main__":
    main(*sys.argv[1:])
