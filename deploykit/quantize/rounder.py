"""Rounds the weights of a graph one by one, as the file that takes them is written."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig
from deploykit.progress import Progress
from deploykit.quantize.blocks import Blocks
from deploykit.quantize.calibrate import Calibration, read_calibration
from deploykit.quantize.plan import Plan, most_sensitive, named
from deploykit.quantize.products import Product, shape
from deploykit.quantize.rounding import Rounded, Scheme, quantize_weight
from deploykit.spec import LOGITS

Key = tuple[str, bool]
"""A weight's name, and whether it is [N, K] already."""


class Rounder:
    """Knows how each weight of a graph is rounded, does it when asked, and remembers what it cost."""

    def __init__(
        self,
        artifact: Artifact,
        config: QuantizeConfig,
        products: Sequence[Product],
        tables: Sequence[ir.Value],
        *,
        progress: Progress,
    ) -> None:
        """Decide on every weight; with `config.sensitive` the graph is run and everything rounded once for that.

        Raises:
            ArtifactError: a weight holds NaN or Inf, or the graph can't be run.
            ConfigError: no weight has a name that `config` asks for, or the calibration text can't be read.
        """
        self._progress = progress
        self._uses: dict[Key, ir.Value] = {(str(p.weight.name), p.transposed): p.weight for p in products}
        self._tables = {str(table.name) for table in tables}
        names = dict.fromkeys(name for name, _ in self._uses)
        head = {str(p.weight.name) for p in products if p.node.outputs[0].name == LOGITS} | self._tables
        self._uses |= {(str(table.name), True): table for table in tables}
        self.total = len(self._uses)
        self._calibration: Calibration | None = None
        if config.sensitive or config.rounding == "gptq":
            text = read_calibration(artifact, config.calibration)
            self._calibration = Calibration(artifact, products, text, progress=progress)
        self._usage = self._calibration.usage() if self._calibration and config.sensitive else {}
        self.plan = Plan(config=config, head=frozenset(head), more=named(names, config.more_bits))
        if config.sensitive:
            self.plan = replace(self.plan, more=self.plan.more | self._sensitive(config.sensitive))
        self._latest: tuple[Key, Blocks] | None = None
        self._done: dict[Key, dict[str, Any]] = {}

    def quantized(self, name: str, transposed: bool) -> Blocks:
        """Return a weight as it is stored; only the latest is remembered."""
        key = (name, transposed)
        if self._latest is None or self._latest[0] != key:
            self._latest = None
            rounded = self._round(key, self.plan.scheme(name))
            self._latest = key, rounded.blocks
            self._done[key] = self._entry(key, rounded)
            self._progress("quantize", len(self._done), self.total + 1, name)
        return self._latest[1]

    def record(self) -> dict[str, Any]:
        """Return what was done, for the manifest: how many weights keep how many bits, and each one's error.

        An error is the root mean square of what rounding changes over that of the whole: of a product's outputs on
        calibration text, or of the weights where there was none.
        """
        bits = Counter(str(entry["bits"]) for entry in self._done.values())
        record: dict[str, Any] = {"bits": dict(sorted(bits.items()))}
        if self._calibration:
            text = self._calibration.text
            record["calibration"] = {"text": text.name, "tokens": text.tokens}
        return {**record, "weights": {name: entry for (name, _), entry in self._done.items()}}

    def _round(self, key: Key, scheme: Scheme) -> Rounded:
        name, transposed = key
        tensor = self._uses[key].const_value
        assert tensor is not None
        factor = None
        if scheme.rounding == "gptq" and self._calibration and name not in self._tables:
            columns = shape(self._uses[key])[1 if transposed else 0]
            factor = self._calibration.factor(name, -(-columns // scheme.block) * scheme.block)
        usage = self._usage.get(name)
        # Not kept in a variable: a view of the file that outlives this call keeps the file mapped.
        rounded = quantize_weight(
            tensor.numpy() if transposed else tensor.numpy().T,
            scheme,
            name=name,
            factor=factor,
            importance=usage.squares if usage else None,
        )
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
        return rounded

    def _sensitive(self, percent: float) -> frozenset[str]:
        """Return the weights that lose most in the bits planned for them."""
        schemes = {key: self.plan.scheme(key[0]) for key in self._uses if key[0] in self._usage}
        open_keys = [key for key, scheme in schemes.items() if scheme.bits < 8 and key[0] not in self.plan.head]
        errors: dict[str, float] = {}
        for number, key in enumerate(open_keys):
            self._progress("measure weights", number, len(open_keys), key[0])
            rounded = self._round(key, replace(schemes[key], rounding="rtn"))
            errors[key[0]] = rounded.error / max(self._usage[key[0]].power, math.ulp(0))
        sizes = {name: math.prod(shape(self._uses[name, turned])) for name, turned in open_keys}
        return most_sensitive(sizes, errors, percent)

    def _entry(self, key: Key, rounded: Rounded) -> dict[str, Any]:
        usage = self._usage.get(key[0])
        kind = "output_error" if rounded.compensated or usage else "weight_error"
        power = usage.power if usage and not rounded.compensated else rounded.power
        error = math.sqrt(rounded.error / power) if power > 0 else 0.0
        return {"bits": rounded.blocks.bits, kind: float(f"{error:.3g}")}
