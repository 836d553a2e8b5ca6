"""The same network in ONNX Runtime: same weights, same order of operations as the model document says."""

from __future__ import annotations

from typing import Any

import numpy as np

from fcntag.modelfile import Model


def onnx_bytes(model: Model) -> bytes:
    """ONNX graph x [N, 1, H, W] -> scores [N, n_tags]."""
    from onnx import TensorProto, helper, numpy_helper

    document, tensors = model.document, model.tensors
    nodes: list[Any] = []
    weights: list[Any] = []
    current = "x"

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        nonlocal current
        output = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, [current, *inputs], [output], **attributes))
        current = output
        return output

    for i, block in enumerate(document.blocks):
        weight = constant(f"w{i}", tensors[f"blocks.{i}.weight"])
        bias = constant(f"b{i}", tensors[f"blocks.{i}.bias"])
        node("Conv", weight, bias, pads=[block.kernel // 2] * 4)
        if block.activation != "none":
            node({"relu": "Relu", "elu": "Elu"}[block.activation])
        if block.post_affine:
            node("Mul", constant(f"s{i}", tensors[f"blocks.{i}.scale"][:, None, None]))
            node("Add", constant(f"t{i}", tensors[f"blocks.{i}.shift"][:, None, None]))
        if block.pool.window != (1, 1) or block.pool.stride != (1, 1):
            node("MaxPool", kernel_shape=list(block.pool.window), strides=list(block.pool.stride))
    if document.head.flatten == "max":
        node("GlobalMaxPool")
    if document.head.flatten == "hwc":
        node("Transpose", perm=[0, 2, 3, 1])
    node("Flatten")
    node("Gemm", constant("hw", tensors["head.weight"]), constant("hb", tensors["head.bias"]), transB=1)
    node("Sigmoid")
    height, width = document.input_size()
    graph = helper.make_graph(
        nodes,
        document.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, height, width])],
        [helper.make_tensor_value_info(current, TensorProto.FLOAT, ["N", len(document.tags)])],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 8
    return proto.SerializeToString()


class OnnxRuntime:
    """The network on ONNX Runtime's CPU provider, denormals flushed as ours are."""

    def __init__(self, model: Model, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self.version = onnxruntime.__version__
        self._session = onnxruntime.InferenceSession(onnx_bytes(model), options, providers=["CPUExecutionProvider"])

    def run(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"x": x[:, None]})[0]
