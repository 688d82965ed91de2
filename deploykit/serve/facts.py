"""What an engine runs and how, as the backend says it to whoever asks and `deploykit serve` shows it."""

from pathlib import Path
from typing import Any

from deploykit.artifact import Artifact
from deploykit.cgroup import available_cores
from deploykit.config import EngineConfig
from deploykit.engine import Engine, Event
from deploykit.serve.answer import Answer, Outputs
from deploykit.serve.protocol import Query


def describe(folder: Path, config: EngineConfig, engine: Engine) -> dict[str, Any]:
    """Return what `engine` runs, which `config` has opened on the artifact in `folder`."""
    artifact = Artifact.open(folder, verify=False)
    precision = artifact.precision_for(config.mode)
    stats, contract = engine.stats(), artifact.contract(precision)
    # What only an encoder-decoder has.
    source = {} if engine.source is None else {"source": engine.source}
    return {
        "version": folder.name,
        "precision": precision,
        "mode": config.mode,
        "rows": stats.rows,
        "context": engine.context,
        **source,
        "cache_bytes": stats.cache_tokens * contract.cache_bytes_per_token(),
        "threads": config.threads or available_cores(),
        "quality": _quality(artifact.manifest.parity.get(precision)),
    }


def answer_with(facts: str, query: Query) -> Outputs:
    """Return the one response to a query for an engine's facts: an answer of no tokens that no engine has run."""
    said = Event(
        index=0,
        text=facts,
        token_ids=(),
        logprobs=(),
        finish_reason="stop",
        num_input_tokens=0,
        num_output_tokens=0,
        cumulative_logprob=None,
    )
    outputs = Answer(query).add([said])
    assert outputs is not None
    return outputs


def _quality(found: Any) -> dict[str, float]:
    """Return the figures that `validate` has measured of a quantized model on a text that the model knows."""
    if not isinstance(found, dict) or not found.get("trained"):
        return {}
    return {name: float(found[name]) for name in ("perplexity_loss", "kl", "top1_agreement") if name in found}
