"""Weights beside an ONNX file, from its own folder only; other types of numbers; files that are no float network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import torch_networks
from support.onnx_graphs import ACCEPTED, POOL, Build

from fcntag.convert import convert_stack
from fcntag.errors import ModelError


def saved(folder: Path, location: str = "net.onnx.data") -> Path:
    """A file whose larger tensors lie in another one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "net.onnx"
    onnx.save(ACCEPTED["plain"]().model(), path, save_as_external_data=True, size_threshold=0, location=location)
    return path


def entries(path: Path, change: Callable[[dict[str, str]], None], name: str = "hw") -> None:
    """Change the entries that say where a tensor's values lie."""
    proto = onnx.load(path, load_external_data=False)
    (tensor,) = (t for t in proto.graph.initializer if t.name == name)
    values = {entry.key: entry.value for entry in tensor.external_data}
    change(values)
    del tensor.external_data[:]
    for key, value in values.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())


def test_weights_beside_the_file(tmp_path, like) -> None:
    path = saved(tmp_path / "beside")
    onnx.save(ACCEPTED["plain"]().model(), tmp_path / "one.onnx")
    beside, one = convert_stack(str(path), like=like), convert_stack(str(tmp_path / "one.onnx"), like=like)
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(beside.tensors[name], tensor)
    assert beside.runtime.startswith("ONNX Runtime")
    assert beside.document.source.note.startswith("Weights in net.onnx.data, SHA-256 ")


def test_pytorch_s_default_export(tmp_path, like) -> None:
    import torch

    module, shape = torch_networks.make("classic")
    path = tmp_path / "net.onnx"
    torch.onnx.export(module, (torch.zeros(1, *shape),), str(path), verbose=False)
    assert (tmp_path / "net.onnx.data").exists()
    assert convert_stack(str(path), like=like).scores <= 2e-6


def test_a_constant_of_a_node_may_lie_beside_the_file_too(tmp_path, like) -> None:
    build = ACCEPTED["plain"]()
    weight = numpy_helper.from_array(build.weights.pop("hw"), "hw")
    weight.external_data.add(key="location", value="raw.bin")
    (tmp_path / "raw.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    build.nodes.insert(0, helper.make_node("Constant", [], ["hw"], value=weight))
    (tmp_path / "net.onnx").write_bytes(build.model().SerializeToString())
    assert convert_stack(str(tmp_path / "net.onnx"), like=like).scores <= 2e-6


def test_a_folder_below_and_a_link_within(tmp_path, like) -> None:
    (tmp_path / "a" / "parts").mkdir(parents=True)
    path = saved(tmp_path / "a", "parts/weights.bin")
    assert convert_stack(str(path), like=like).scores <= 2e-6
    (tmp_path / "a" / "parts" / "weights.bin").rename(tmp_path / "a" / "moved.bin")
    (tmp_path / "a" / "parts" / "weights.bin").symlink_to("../moved.bin")
    assert convert_stack(str(path), like=like).scores <= 2e-6


def put(**values: str) -> Callable[[dict[str, str]], None]:
    return lambda entry: entry.update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(location="../outside.bin"), r"hw: its values are in '\.\./outside\.bin'; only a file in the model's own"),
        (put(location="a/../../outside.bin"), r"only a file in the model's own folder is read"),
        (put(location="..\\outside.bin"), r"only a file in the model's own folder is read"),
        (put(location="/etc/hostname"), r"hw: its values are in '/etc/hostname'; only a file in"),
        (put(location="C:\\weights.bin"), r"only a file in the model's own folder is read"),
        (put(location="file:///etc/hostname"), r"only a file in the model's own folder is read"),
        (put(location="gone.bin"), r"gone\.bin: no such file; the values of hw are in it: keep the two files together"),
        (put(location="net.onnx/x"), r"net\.onnx/x: no such file"),
        (put(location="."), r"is not a regular file; the values of hw should be in it"),
        (put(location="fifo"), r"fifo: is not a regular file"),
        (put(location="out"), r"hw: its values are in 'out', a link out of the model's folder"),
        (put(location="far/outside.bin"), r"hw: its values are in 'far/outside\.bin', a link out of"),
        (put(location="nowhere"), r"nowhere: no such file"),
        (put(location=""), "hw: its values are in another file that is not named"),
        (put(offset="99999999"), r"net\.onnx\.data: \d+ bytes; hw lies at 99999999 to \d+: it is cut short"),
        (put(offset="-4"), "hw: offset '-4' of its values in another file; must be a number"),
        (put(offset="1e3"), "hw: offset '1e3' of its values"),
        (put(offset="9" * 30), "hw: offset '9+' of its values"),
        (put(length="12"), "hw: 12 bytes in 'net.onnx.data'; its shape needs 15360"),
        (put(length="x"), "hw: length 'x' of its values"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_name(tmp_path, like, change, message) -> None:
    folder = tmp_path / "model"
    path = saved(folder)
    (tmp_path / "outside.bin").write_bytes((folder / "net.onnx.data").read_bytes())
    os.mkfifo(folder / "fifo")
    (folder / "out").symlink_to(tmp_path / "outside.bin")
    (folder / "far").symlink_to(tmp_path)
    (folder / "nowhere").symlink_to(folder / "not-there")
    entries(path, change)
    with pytest.raises(ModelError, match=message) as error:
        convert_stack(str(path), like=like)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_the_missing_file_is_named_by_its_path(tmp_path, like) -> None:
    path = saved(tmp_path)
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(ModelError, match=f"{tmp_path / 'net.onnx.data'}: no such file"):
        convert_stack(str(path), like=like)


def test_many_tensors_of_the_same_bytes_are_bounded(tmp_path, like, monkeypatch) -> None:
    from fcntag.convert.readers import onnx_external

    path = saved(tmp_path)
    monkeypatch.setattr(onnx_external, "MAX_BYTES", 15_400)
    with pytest.raises(ModelError, match="more than 15400 bytes in other files"):
        convert_stack(str(path), like=like)


# ---- kinds of files ----


def quantised(kind: str) -> Any:
    def make() -> Build:
        build = Build().conv()
        build.weights |= {"one": np.ones(1, np.float32), "none": np.zeros(1, np.uint8)}
        if kind == "DynamicQuantizeLinear":
            build.nodes.append(helper.make_node(kind, [build.current], ["q", "s", "z"], name="my_quantize"))
            build.current = "q"
            return build
        return build.node(kind, "one", "none")

    return make


@pytest.mark.parametrize("kind", ["QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"])
def test_a_quantised_network_is_called_so(tmp_path, like, kind) -> None:
    (tmp_path / "net.onnx").write_bytes(quantised(kind)().model().SerializeToString())
    with pytest.raises(ModelError, match=rf"\({kind}\): a quantised network; convert the float32 network"):
        convert_stack(str(tmp_path / "net.onnx"), like=like)


def test_a_file_that_onnx_runtime_optimised_is_called_so(tmp_path, like) -> None:
    import onnxruntime

    onnx.save(ACCEPTED["plain"]().model(), tmp_path / "net.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    with pytest.raises(ModelError, match=r"an operator of com\.microsoft, .*: ONNX Runtime optimised this file"):
        convert_stack(str(tmp_path / "fused.onnx"), like=like)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "basic.onnx")
    onnxruntime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    assert convert_stack(str(tmp_path / "basic.onnx"), like=like).scores <= 2e-6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(60), "a zip archive, as PyTorch and Keras write: export the network to ONNX"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file, as Keras writes"),
        (b"<!DOCTYPE html><html></html>", "a page of HTML or XML"),
        (b"\x1c\0\0\0TFL3" + bytes(60), "a TensorFlow Lite "),
        (b"\x1c\0\0\0ORTM" + bytes(60), "in ONNX Runtime's own format"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path, like, data, message) -> None:
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=message):
        convert_stack(str(tmp_path / "net.onnx"), like=like)


# ---- other floats ----


def as_type(model: Any, number: int, ends: bool) -> Any:
    """The same network in another float type; ``ends``: the input and output stay float32, between two Casts."""
    dtype = helper.tensor_dtype_to_np_dtype(number)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    if ends:
        model.graph.node[0].input[0] = "narrow"
        model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["narrow"], to=number))
        model.graph.node.append(helper.make_node("Cast", [model.graph.output[0].name], ["wide"], to=1))
        model.graph.output[0].name = "wide"
    else:
        model.graph.input[0].type.tensor_type.elem_type = number
        model.graph.output[0].type.tensor_type.elem_type = number
    return model


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("name", ["float16", "float64", "bfloat16"])
def test_other_floats(tmp_path, like, name, ends) -> None:
    """Their weights are taken exactly as they are; the comparison computes them in float32."""
    number = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE, "bfloat16": TensorProto.BFLOAT16}[name]
    model = as_type(ACCEPTED["plain"]().model(), number, ends)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    converted = convert_stack(str(tmp_path / "net.onnx"), like=like)
    assert converted.runtime.endswith(f"(the file's {name} as float32)")
    assert converted.scores <= 2e-6
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(converted.tensors["head.weight"], weights["hw"].astype(np.float32))


def test_a_type_is_named(tmp_path, like) -> None:
    model = ACCEPTED["plain"]().model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="x: an input of type uint8; built: float32, float16, float64, bfloat16"):
        convert_stack(str(tmp_path / "net.onnx"), like=like)
    build = Build().conv().node("Cast", to=TensorProto.INT8).node("MaxPool", **POOL).end()
    (tmp_path / "net.onnx").write_bytes(build.model().SerializeToString())
    with pytest.raises(ModelError, match=r"my_cast \(Cast\): casts data to int8; built: float32"):
        convert_stack(str(tmp_path / "net.onnx"), like=like)
