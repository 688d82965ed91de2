"""Where inside a graph a difference begins: PyTorch's hidden states, looked for among the graph's inner values.

A graph doesn't say which of its values is which place of the model, and a traced one has names of the exporter's own.
So every inner value of a hidden state's shape is bound as an output, and a place is the value that comes nearest to
PyTorch's. What is right is found again within rounding errors; behind a defect nothing is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.errors import ConfigError, ParityError
from deploykit.progress import Progress, silent
from deploykit.spec import LOGITS, DecoderSpec, Precision
from deploykit.validate.decoder import FloatArray, IntArray
from deploykit.validate.parity import tolerance
from deploykit.validate.probe import Probe, cache_place
from deploykit.validate.text import make_rows, read_text

Hidden = Callable[[IntArray], Mapping[str, FloatArray]]
"""What the reference has at each place, in the order it computes, for one row of token ids [S]."""

EMBEDDING: Final = "embedding"
_SAMPLE: Final = 512
"""Elements by which a place's nearest value is chosen, before the two are compared in full."""
Values = Mapping[str, FloatArray]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place of the model, in both."""

    name: str
    max_abs_error: float | None
    """None where no value of the graph is this place, as where kernels were fused."""
    relative_error: float | None
    """Root mean square of the difference over that of the truth."""
    allowed: float | None
    """Largest difference allowed; None where two precisions are compared."""

    @property
    def same(self) -> bool:
        """Whether the difference is within what is allowed; NaN never is."""
        return self.max_abs_error is not None and (self.allowed is None or self.max_abs_error <= self.allowed)

    @property
    def layer(self) -> str:
        """The layer it belongs to, or its own name."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """Every place of the model, in the order it computes."""

    precision: Precision
    truth: str
    case: str
    places: tuple[Place, ...]
    first: Place | None
    """fp32: the first place that differs. Other precisions: where the error grows most."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; what isn't finite becomes null."""
        places = [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in asdict(place).items()
            }
            | {"same": place.same}
            for place in self.places
        ]
        first = self.first and self.first.name
        return {"precision": self.precision, "truth": self.truth, "case": self.case, "first": first, "places": places}

    def check(self) -> None:
        """Pass where nothing differs that shouldn't.

        Raises:
            ParityError: naming the first place that differs; never for a precision that may.
        """
        if self.precision == "fp32" and self.first is not None:
            at = [place.name for place in self.places].index(self.first.name)
            before = self.places[at - 1].name if at else "the token ids"
            raise ParityError(
                f"{self.first.name}: max |onnx - {self.truth}| = {self.first.max_abs_error or math.nan:.3g} > "
                f"{self.first.allowed or 0:.3g} in case {self.case!r}: the first place that differs, all is right up "
                f"to {before}; look at the weights and nodes between the two, or try convert --method traced"
            )


def bisect(
    source: Artifact | str,
    hidden: Hidden,
    config: ValidateConfig | None = None,
    *,
    precision: Precision = "fp32",
    progress: Progress = silent,
) -> Bisection:
    """Return how far a graph is off at each place of the model, and where that begins.

    fp32 is compared with `hidden`; another precision with fp32, in the values that `hidden` finds there.

    Args:
        source: an artifact, or the path of one, which is then verified.
        hidden: the reference's hidden states of a row of token ids.
        config: tolerance, and the text that the row is cut from.
        precision: which graph to look into.
        progress: told what runs.

    Raises:
        ArtifactError: `source` is no sound artifact, or lacks a graph.
        ParityError: the reference is another model's.
        ConfigError: the artifact is an encoder-decoder.
    """
    config = config or ValidateConfig()
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    check_decoder_only(artifact, "--bisect")
    spec = artifact.manifest.decoder
    ids = np.ascontiguousarray(make_rows(read_text(artifact, config), spec.max_context, spec.vocab_size).long)
    progress("look inside", 0, 3, "the reference")
    truth = _checked(hidden(ids), spec, len(ids))
    progress("look inside", 1, 3, "fp32")
    probe = Probe(artifact.graph("fp32"), spec, width=truth[EMBEDDING].shape[-1])
    found = _against_truth(probe, ids, truth, config.atol)
    if precision != "fp32":
        progress("look inside", 2, 3, precision)
        found = _against_fp32(probe, ids, truth, artifact, precision)
    progress("look inside", 3, 3)
    return found


def check_decoder_only(artifact: Artifact, option: str) -> None:
    """Refuse what follows tokens through a decoder alone.

    Raises:
        ConfigError: there is an encoder, too.
    """
    if artifact.manifest.decoder.encoder:
        raise ConfigError(
            f"{option}: follows tokens through a decoder alone, and {artifact.path} has an encoder as well; leave it "
            "out: every case of validate names its row and token"
        )


def _is_output(place: str) -> bool:
    """Return whether a place is an output of every graph, so that it needs no search."""
    return place == LOGITS or place.endswith(("/keys", "/values"))


def _checked(truth: Values, spec: DecoderSpec, tokens: int) -> Values:
    wanted: dict[str, tuple[int, ...]] = {LOGITS: (tokens, spec.vocab_size)}
    for number, tensor in enumerate(spec.past()):
        wanted[cache_place(number)] = (int(tensor.shape[1]), tokens, int(tensor.shape[3]))
    for place, shape in wanted.items():
        found = truth[place].shape if place in truth else ()
        if found != shape:
            raise ParityError(
                f"{place}: the reference's is {list(found)}, the graph's {list(shape)}; "
                "compare with the checkpoint the artifact was made from"
            )
    return truth


def _against_truth(probe: Probe, ids: IntArray, truth: Values, atol: float) -> Bisection:
    """Compare the row run at once and, where nothing differs, in two pieces; report the last one run."""
    half = len(ids) // 2
    found = _compared(probe, ids, truth, atol, "prefill", [ids])
    if found.first is None and half:
        found = _compared(probe, ids, truth, atol, "chunk on a past", [ids[:half], ids[half:]])
    return found


def _compared(
    probe: Probe, ids: IntArray, truth: Values, atol: float, case: str, pieces: Sequence[IntArray]
) -> Bisection:
    seen = probe.run(ids, pieces)
    names = nearest(truth, seen, probe.inner)
    places = tuple(_place(place, truth[place], seen.get(names.get(place, "")), atol) for place in truth)
    return Bisection(precision="fp32", truth="pytorch", case=case, places=places, first=first_difference(places))


def nearest(truth: Values, seen: Values, inner: Sequence[str]) -> dict[str, str]:
    """Return the value that comes nearest to each place: an output by its name, else the best of the inner values."""
    names = {place: place for place in truth if _is_output(place)}
    shape = truth[EMBEDDING].shape
    inner = [name for name in inner if seen[name].shape == shape]
    if not inner:
        return names
    picked = np.random.default_rng(0).integers(0, math.prod(shape), _SAMPLE)
    samples = np.stack([seen[name].reshape(-1)[picked] for name in inner])
    for place, value in truth.items():
        if place not in names and value.shape == shape:
            gaps = np.abs(samples - value.reshape(-1)[picked]).max(axis=1)
            names[place] = inner[int(np.where(np.isnan(gaps), np.inf, gaps).argmin())]
    return names


def _place(name: str, truth: FloatArray, seen: FloatArray | None, atol: float | None) -> Place:
    allowed = None if atol is None else _allowed(name, truth, atol)
    if seen is None:
        return Place(name=name, max_abs_error=None, relative_error=None, allowed=allowed)
    difference = seen - truth
    size = max(_rms(truth), float(np.finfo(np.float32).tiny))
    gap = float(np.abs(difference).max())
    return Place(name=name, max_abs_error=gap, relative_error=_rms(difference) / size, allowed=allowed)


def _allowed(name: str, truth: FloatArray, atol: float) -> float:
    if name == LOGITS:
        return tolerance([truth], atol)
    # Hidden states have no scale of their own: a few channels may be a hundred times the rest, with rounding to match.
    return atol * max(_rms(truth), float(np.abs(truth).max()) / 10)


def _rms(array: FloatArray) -> float:
    return math.sqrt(float(np.square(array, dtype=np.float64).mean()))


def first_difference(places: Sequence[Place]) -> Place | None:
    """Return the first place that differs, or None.

    A defect changes all that is computed after it. So a place that isn't found while a later layer is right is one
    that the graph has no value for, and no difference; keys, values and logits have names and are always found.
    """
    right = max((at for at, place in enumerate(places) if place.same), default=-1)
    whole = right >= 0 and places[right].name == places[right].layer
    layer = None if right < 0 or whole else places[right].layer
    begin = next((at for at, place in enumerate(places) if place.layer == layer), right + 1)
    for at, place in enumerate(places):
        if not place.same and (_is_output(place.name) or at >= begin):
            return place
    return None


def _against_fp32(probe: Probe, ids: IntArray, truth: Values, artifact: Artifact, precision: Precision) -> Bisection:
    """Compare a precision with fp32 where fp32's values were found, and name where the error grows most."""
    fp32 = probe.run(ids, [ids])
    names = nearest(truth, fp32, probe.inner)
    other = Probe(artifact.graph(precision), artifact.contract(precision), inner=list(names.values()))
    seen = other.run(ids, [ids])
    places = tuple(_place(place, fp32[names[place]], seen.get(names[place]), None) for place in truth if place in names)
    stream = [place for place in places if place.name == place.layer and place.relative_error is not None]
    errors = [0.0, *(place.relative_error or 0.0 for place in stream)]
    growth = [after - before for before, after in pairwise(errors)]
    most = stream[int(np.argmax(growth))] if stream else None
    return Bisection(precision=precision, truth="fp32", case="prefill", places=places, first=most)
