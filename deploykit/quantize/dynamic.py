"""dynamic-int8: weights per output channel, activations per tensor at run time, through ONNX Runtime's quantizer."""

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnx import TensorProto
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxruntime.quantization import QuantType, quantize_dynamic

from deploykit import graph as graphs
from deploykit.progress import Progress
from deploykit.quantize.products import Product, find_products, shape

_PREPARED: Final = ("onnx.quant.pre_process", "onnxruntime.quant")
"""How ONNX Runtime marks a graph that needs no preparation (quant_utils.add_pre_process_metadata)."""


def quantize_activations(source: Path, target: Path, *, progress: Progress) -> dict[str, Any]:
    """Write the graph in `source` to `target` with MatMulInteger for each product, and return what was done and left.

    ONNX Runtime's quantizer holds the whole model in memory.

    Raises:
        ArtifactError: the file can't be read.
    """
    progress("quantize", 0, 3, "prepare")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        plain, quantized = Path(folder) / "plain.onnx", Path(folder) / "quantized.onnx"
        model = graphs.load(source)
        products, left = find_products(model.graph)
        for product in products:
            _make_plain(model.graph, product)
        RemoveUnusedNodesPass()(model)
        model.metadata_props[_PREPARED[0]] = _PREPARED[1]
        graphs.save(model, plain)
        progress("quantize", 1, 3, "weights")
        quantize_dynamic(
            plain,
            quantized,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            # Shape inference doesn't know com.microsoft's operators, so the quantizer must be told their type.
            extra_options={"DefaultTensorType": TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
        progress("quantize", 2, 3, "write")
        result = ir.load(quantized)
        del result.metadata_props[_PREPARED[0]]
        graphs.save(result, target)
        count = sum(1 for node in result.graph if node.op_type == "MatMulInteger")
    progress("quantize", 3, 3)
    left = left if count == len(products) else {**left, "refused by ONNX Runtime": len(products) - count}
    return {"products": count, "products_left": left, "embeddings": 0}


def _make_plain(graph: ir.Graph, product: Product) -> None:
    """Turn a Gemm, or a product with a transposed weight, into the MatMul that the quantizer knows."""
    if product.node.op_type == "MatMul" and not product.transposed:
        return
    weight = _untransposed(graph, product.weight) if product.transposed else product.weight
    nodes = [ir.node("MatMul", [product.node.inputs[0], weight], name=product.node.name)]
    if product.bias is not None:
        nodes.append(ir.node("Add", [nodes[0].outputs[0], product.bias], name=f"{product.node.name}.bias"))
    ir.convenience.replace_nodes_and_values(
        graph, product.node, [product.node], nodes, product.node.outputs, nodes[-1].outputs
    )


def _untransposed(graph: ir.Graph, weight: ir.Value) -> ir.Value:
    name, tensor = f"{weight.name}.T", weight.const_value
    assert tensor is not None
    if name in graph.initializers:
        return graph.initializers[name]
    dims = ir.Shape(shape(weight)[::-1])

    def evaluate() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().T), name=name)

    lazy = ir.LazyTensor(evaluate, dtype=ir.DataType.FLOAT, shape=dims, name=name)
    value = ir.Value(name=name, shape=dims, type=ir.TensorType(ir.DataType.FLOAT), const_value=lazy)
    graph.register_initializer(value)
    return value
