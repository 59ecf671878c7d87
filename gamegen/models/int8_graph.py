"""int8 quantisation of an ONNX graph's linear layers: static weights, dynamic activations."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper, numpy_helper

_CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's own operations."""


def quantise_linears(model: onnx.ModelProto, weight_names: Collection[str]) -> onnx.ModelProto:
    """Quantises a graph's linear layers in place, and returns the graph.

    `weight_names` are initialisers `(out, in)`; a product with the transpose of one becomes ONNX Runtime's
    DynamicQuantizeMatMul: uint8 activations with one scale and zero point a tensor, int8 weights with a scale for each
    output channel.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    transposed = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in weight_names
    }
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    replaced: dict[str, NodeProto] = {}
    dropped: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in transposed:
            continue
        name, following = transposed[node.input[1]], readers.get(node.output[0], [])
        bias = _bias_of(following, node.output[0], weights)
        output = node.output[0]
        if bias:
            output = following[0].output[0]
            dropped.add(output)
        graph.initializer.extend(_quantised(name, numpy_helper.to_array(weights[name])))
        parts = [node.input[0], f"{name} int8", f"{name} scale", f"{name} zero", bias]
        replaced[node.output[0]] = helper.make_node(
            "DynamicQuantizeMatMul", parts if bias else parts[:-1], [output], domain=_CONTRIB
        )
    # A product stands before every node that reads its sum, which keeps the order topological.
    nodes = [replaced.get(node.output[0], node) for node in graph.node if node.output[0] not in dropped]
    del graph.node[:]
    graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    _drop_unused(graph)
    return model


def _bias_of(readers: list[NodeProto], product: str, weights: Collection[str]) -> str:
    """Name of the bias that is added to a product, or an empty name if its readers are anything else."""
    if len(readers) != 1 or readers[0].op_type != "Add":
        return ""
    (other,) = [name for name in readers[0].input if name != product] or [""]
    return other if other in weights else ""


def _quantised(name: str, weight: np.ndarray) -> list[onnx.TensorProto]:
    """Initialisers of a quantised weight: int8 `(in, out)`, scales and zero points `(out,)`."""
    scale = np.maximum(np.abs(weight).max(1), 1e-12) / _largest()
    rounded = np.round(weight / scale[:, None]).astype(np.int8)
    return [
        numpy_helper.from_array(np.ascontiguousarray(rounded.T), f"{name} int8"),
        numpy_helper.from_array(scale.astype(np.float32), f"{name} scale"),
        numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name} zero"),
    ]


def _largest() -> int:
    """Largest quantised weight: 127, or 63 without VNNI, where x86 sums two products in 16 bits and would overflow."""
    return 127 if torch.cpu._is_vnni_supported() else 63


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Removes transposes and initialisers that no node reads."""
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    transposes = {node.output[0] for node in graph.node if node.op_type == "Transpose"}
    nodes = [node for node in graph.node if node.output[0] in used or node.output[0] not in transposes]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
