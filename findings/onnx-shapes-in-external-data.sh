#!/usr/bin/env bash
# ONNX Runtime 1.32.0 does not load a file whose shape constants onnx 1.23.2 has moved to the data file beside it.
#
# Seen: onnx.save(..., save_as_external_data=True, size_threshold=0) moves every initializer to the data file, the sixteen
# bytes of a Reshape's shape too. onnx's checker takes the result, onnx.load reads it back, and its reference evaluator
# computes it. Shape inference reads no external data: onnx's own full check refuses the file that onnx wrote, and ONNX
# Runtime creates no session. With the default threshold (1024 bytes) shapes stay in the file, and the same model loads.
# Weights alone, as PyTorch's exporter writes them, are no problem.
#
# Installs the pinned packages into a temporary folder. Exit code 0: as described; 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/show.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

folder = sys.argv[1]
onnxruntime.set_default_logger_severity(4)
weight = np.arange(600, dtype=np.float32).reshape(6, 100)
graph = helper.make_graph(
    [helper.make_node("Reshape", ["x", "shape"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["y"])],
    "head",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 3])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 100])],
    [numpy_helper.from_array(np.array([-1, 6]), "shape"), numpy_helper.from_array(weight, "weight")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
x = np.ones((2, 2, 3), np.float32)
full, loads = {}, {}
for threshold in (1024, 0):
    path = f"{folder}/threshold-{threshold}.onnx"
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.save(copy, path, save_as_external_data=True, size_threshold=threshold)
    onnx.checker.check_model(path)
    try:
        onnx.checker.check_model(path, full_check=True)
        full[threshold] = True
    except Exception:
        full[threshold] = False
    print(f"size_threshold {threshold}: onnx's checker takes it, its full check {'too' if full[threshold] else 'does not'}")
    expected = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})[0]
    assert np.array_equal(expected, x.reshape(2, 6) @ weight)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        loads[threshold] = np.allclose(session.run(None, {"x": x})[0], expected)
        print(f"size_threshold {threshold}: ONNX Runtime computes it")
    except Exception as error:
        loads[threshold] = False
        print(f"size_threshold {threshold}: ONNX Runtime says: {str(error).splitlines()[0][-90:]}")
# Output of 2026-11-28:
#   size_threshold 1024: onnx's checker takes it, its full check too
#   size_threshold 1024: ONNX Runtime computes it
#   size_threshold 0: onnx's checker takes it, its full check does not
#   size_threshold 0: ONNX Runtime says: ... from external tensors. Please load external data into raw data for tensor: shape
raise SystemExit(not (loads[1024] and full[1024] and not loads[0] and not full[0]))
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
