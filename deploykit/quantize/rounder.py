"""Rounds the weights of a graph one by one, as the file that takes them is written."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig
from deploykit.progress import Progress
from deploykit.quantize.blocks import Blocks
from deploykit.quantize.calibrate import CalibrationText, Hessians, read_calibration
from deploykit.quantize.plan import Key, Plan, named, table_block
from deploykit.quantize.products import Product, shape
from deploykit.quantize.rounding import Rounded, Scheme, quantize_weight
from deploykit.quantize.sensitivity import Sensitivity, most_sensitive


class Rounder:
    """Knows how each weight of a graph is rounded, does it when asked, and remembers what it cost."""

    def __init__(
        self,
        artifact: Artifact,
        config: QuantizeConfig,
        products: Sequence[Product],
        tables: Sequence[ir.Value],
        *,
        heads: Sequence[Product],
        progress: Progress,
    ) -> None:
        """Decide on every weight; with `config.sensitive` the graph is run and everything rounded once for that.

        Raises:
            ArtifactError: a weight holds NaN or Inf, or the graph can't be run.
            ConfigError: no weight has a name that `config` asks for, or the calibration text can't be read.
        """
        self._progress = progress
        self._uses = {Key(str(p.weight.name), p.transposed): p.weight for p in products}
        names = dict.fromkeys(key.name for key in self._uses)
        blocks = {str(t.name): table_block(shape(t)[1], config.block_size) or config.block_size for t in tables}
        calibrated = config.sensitive or config.rounding == "gptq"
        self._text = read_calibration(artifact, config.calibration) if calibrated else None
        self._hessians: Hessians | None = None
        if self._text and config.rounding == "gptq":
            self._hessians = Hessians(artifact, products, self._text, progress=progress)
        self.plan = Plan(
            config=config,
            head=frozenset({str(product.weight.name) for product in heads} | set(blocks)),
            more=named(names, config.more_bits),
            tables=blocks,
        )
        self._uses |= {Key(str(t.name), True, self.plan.twice(str(t.name))): t for t in tables}
        self.total = len(self._uses)
        self._costs: dict[str, float] = {}
        if self._text and config.sensitive:
            self.plan = replace(self.plan, more=self.plan.more | self._sensitive(artifact, self._text))
        self._latest: tuple[Key, Blocks] | None = None
        self._done: dict[Key, dict[str, Any]] = {}

    def quantized(self, key: Key) -> Blocks:
        """Return a weight as it is stored; only the latest is remembered."""
        if self._latest is None or self._latest[0] != key:
            self._latest = None
            rounded = self._round(key, self.plan.scheme(key.name, looked_up=key.looked_up))
            self._latest = key, rounded.blocks
            self._done[key] = self._entry(key, rounded)
            self._progress("quantize", len(self._done), self.total + 1, key.label)
        return self._latest[1]

    def record(self) -> dict[str, Any]:
        """Return what was done, for the manifest: how many weights keep how many bits, and each one's error.

        An error is the root mean square of what rounding changes over that of the whole: of a product's outputs on
        calibration text after GPTQ, else of the weights. `kl_alone` is the divergence, in nats a token, of the model
        with only that weight in 4 bits, where sensitivity was measured.
        """
        bits = Counter(str(entry["bits"]) for entry in self._done.values())
        record: dict[str, Any] = {"bits": dict(sorted(bits.items()))}
        if self._text:
            record["calibration"] = {"text": self._text.name, "tokens": self._text.tokens}
        return {**record, "weights": {key.label: entry for key, entry in self._done.items()}}

    def _round(self, key: Key, scheme: Scheme) -> Rounded:
        tensor = self._uses[key].const_value
        assert tensor is not None
        factor = None
        if self._hessians and scheme.rounding == "gptq" and not self._looked_up(key):
            columns = shape(self._uses[key])[1 if key.transposed else 0]
            factor = self._hessians.factor(key.name, -(-columns // scheme.block) * scheme.block)
        # Not kept in a variable: a view of the file that outlives this call keeps the file mapped.
        rounded = quantize_weight(
            tensor.numpy() if key.transposed else tensor.numpy().T, scheme, name=key.name, factor=factor
        )
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
        return rounded

    def _looked_up(self, key: Key) -> bool:
        """Return whether a weight's rows are looked up, whatever else it does: GPTQ would move them."""
        return key.looked_up or (key.name in self.plan.tables and not self.plan.twice(key.name))

    def _sensitive(self, artifact: Artifact, text: CalibrationText) -> frozenset[str]:
        """Return the weights that the model suffers most from, rounded to nearest one by one."""
        schemes = {key: self.plan.scheme(key.name) for key in self._uses if key.name not in self.plan.head}
        keys = [key for key, scheme in schemes.items() if scheme.bits < 8]
        sensitivity = Sensitivity(artifact, dict.fromkeys(key.name for key in keys), text)
        for number, key in enumerate(keys):
            self._progress("measure weights", number, len(keys), key.name)
            columns = shape(self._uses[key])[1 if key.transposed else 0]
            weight = self._round(key, replace(schemes[key], rounding="rtn")).blocks.weights(columns)
            laid_out = np.ascontiguousarray(weight if key.transposed else weight.T)
            self._costs[key.name] = sensitivity.divergence(key.name, laid_out)
        sizes = {key.name: math.prod(shape(self._uses[key])) for key in keys}
        return most_sensitive(sizes, self._costs, self.plan.config.sensitive)

    def _entry(self, key: Key, rounded: Rounded) -> dict[str, Any]:
        kind = "output_error" if rounded.compensated else "weight_error"
        error = math.sqrt(rounded.error / rounded.power) if rounded.power > 0 else 0.0
        entry = {"bits": rounded.blocks.bits, kind: float(f"{error:.3g}")}
        return entry | ({"kl_alone": float(f"{self._costs[key.name]:.3g}")} if key.name in self._costs else {})
