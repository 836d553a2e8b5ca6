"""Node by node: what an ONNX graph may hold, and what is refused by its node's name and operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from support.onnx_graphs import ACCEPTED, MAP, POOL, Build, with_head, zero

from fcntag.convert import convert_stack
from fcntag.errors import ModelError


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(tmp_path, like, case) -> None:
    """The conversion compares with ONNX Runtime itself; it returns only what agrees."""
    onnx.save(ACCEPTED[case]().model(), tmp_path / "net.onnx")
    converted = convert_stack(str(tmp_path / "net.onnx"), like=like)
    assert converted.scores <= 2e-6
    assert converted.logits <= 3e-6
    assert converted.runtime.startswith("ONNX Runtime")


def reject(change: Callable[[Build], None], build: Build | None = None) -> Callable[[], Build]:
    def make() -> Build:
        made = build if build is not None else ACCEPTED["plain"]()
        change(made)
        return made

    return make


def dynamic(build: Build, axis: int) -> Build:
    build.shape[axis] = "time"
    return build


def named(build: Build, name: str, array: np.ndarray) -> Build:
    build.weights[name] = array
    return build


def beside(build: Build) -> Build:
    """A second path, added to the first."""
    build.conv()
    first = build.current
    build.node("Relu").node("Add", first)
    return build.end()


def parts(build: Build) -> Build:
    """Constants of a Slice and a Pad."""
    numbers = {"s0": [0], "s31": [31], "before": [-100], "a3": [3], "back": [-1]}
    around, more = [0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0, 0]
    for name, value in {**numbers, "around": around, "more": more}.items():
        build.weights[name] = np.array(value, np.int64)
    build.weights["one"] = np.array(1, np.float32)
    return build


def trained(build: Build) -> Build:
    """Before opset 14 a batch-norm that trains gives the batch's statistics, too."""
    named(build, "one", np.ones(4, np.float32)).opset = 9
    build.node("BatchNormalization", "one", "one", "one", "one")
    build.nodes[-1].output.extend(["mean", "var", "saved_mean", "saved_var"])
    return build


REJECTED: dict[str, tuple[Callable[[], Build], str]] = {
    "strides": (lambda: Build().conv(strides=[2, 2]).end(), r"my_conv \(Conv\): strides \[2, 2\]; built: \[1, 1\]"),
    "dilation": (lambda: Build().conv(dilations=[2, 2]).end(), r"my_conv \(Conv\): dilations \[2, 2\]"),
    "groups": (lambda: Build().conv(group=2).end(), r"my_conv \(Conv\): groups 2; built: 1"),
    "padding": (
        lambda: with_head(Build().conv(pads=[0, 0, 0, 0]).node("Relu"), 4 * 18 * 30),
        r"my_conv \(Conv\): pads \[0, 0, 0, 0\]; built: zero padding 'same', \[1, 1, 1, 1\]",
    ),
    "lopsided padding": (
        lambda: with_head(Build().conv(pads=[2, 1, 0, 1]).node("Relu"), MAP),
        r"my_conv \(Conv\): pads \[2, 1, 0, 1\]",
    ),
    "kernel": (
        lambda: with_head(
            named(Build(), "w", np.ones((4, 1, 5, 5), np.float32)).node("Conv", "w", pads=[2] * 4).node("Relu"), MAP
        ),
        r"my_conv \(Conv\): a kernel of 5 x 5; built: 1 x 1, 3 x 3",
    ),
    "average pool": (
        lambda: Build().conv().node("Relu").node("AveragePool", **POOL).end(),
        r"my_averagepool \(AveragePool\): an average over part of the map",
    ),
    "pool padding": (
        lambda: Build().conv().node("Relu").node("MaxPool", pads=[1, 1, 1, 1], **POOL).end(),
        r"my_maxpool \(MaxPool\): pads \[1, 1, 1, 1\] on a map of \[20, 32\]; built: floor, and no window that reaches",
    ),
    "pool that rounds up": (
        lambda: Build().conv().node("Relu").node("MaxPool", ceil_mode=1, kernel_shape=[3, 3], strides=[3, 3]).end(),
        r"my_maxpool \(MaxPool\): ceil_mode on a map of \[20, 32\]; built: floor",
    ),
    "unknown operator": (
        lambda: Build().conv().node("Softplus").node("MaxPool", **POOL).end(),
        r"my_softplus \(Softplus\): an operator that is not built; built: .*Conv.*MaxPool",
    ),
    "leaky": (lambda: Build().conv().node("LeakyRelu").end(), r"my_leakyrelu \(LeakyRelu\): an operator that is not"),
    "another elu": (lambda: Build().conv().node("Elu", alpha=0.5).end(), r"my_elu \(Elu\): alpha 0\.5; built: 1\.0"),
    "clip at six": (
        lambda: named(zero(Build().conv()), "six", np.array(6, np.float32)).node("Clip", "zero", "six").end(),
        r"my_clip \(Clip\): clips to \[0(\.0)?, 6(\.0)?\]; built",
    ),
    "foreign operator": (
        lambda: Build().conv().node("Relu", domain="com.example").end(),
        r"my_relu \(Relu\): an operator of com\.example",
    ),
    "bands and time of any length": (
        lambda: dynamic(dynamic(ACCEPTED["plain"](), 3), 2), r"x: an input of shape \['batch', 1, 'time', 'time'\]"
    ),
    "time of any length, other bands": (
        lambda: reject(lambda build: build.shape.__setitem__(slice(1, 4), [1, 24, "time"]), ACCEPTED["plain"]())(),
        r"x: an input of shape \['batch', 1, 24, 'time'\]; built: .* beside another of the front end's \(20 x 32\)",
    ),
    "an image read in another order": (
        lambda: named(Build(), "turned", np.array([-1, 1, 32, 20])).node("Reshape", "turned").conv().end(),
        r"my_reshape \(Reshape\): \['batch', 1, 20, 32\] to \['batch', 1, 32, 20\] cuts an axis",
    ),
    "channels cut in two": (
        lambda: named(Build().conv().node("Relu"), "cut", np.array([-1, 2, 2, 640])).node("Reshape", "cut").end(),
        r"my_reshape \(Reshape\): .* cuts an axis",
    ),
    "one batch for another": (
        lambda: named(Build().conv().node("Relu").node("MaxPool", **POOL), "f", np.array([2, 640])).node(
            "Reshape", "f").node("Gemm", "hw", "hb", transB=1).node("Sigmoid"),
        r"my_reshape \(Reshape\): .* built: the batch stays as it is",
    ),
    "a part of the map": (
        lambda: with_head(parts(Build().conv().node("Relu")).node("Slice", "s0", "s31", "a3"), 4 * 20 * 31),
        r"my_slice \(Slice\): \[0:31:1\] of axis 3 of \['batch', 4, 20, 32\]; built: all of it",
    ),
    "the map backwards": (
        lambda: with_head(parts(Build().conv().node("Relu")).node("Slice", "s31", "before", "a3", "back"), MAP),
        r"my_slice \(Slice\): \[31:.*:-1\] of axis 3",
    ),
    "a pad of ones": (
        lambda: with_head(parts(Build()).node("Pad", "around", "one").conv(pads=[0, 0, 0, 0]).node("Relu"), MAP),
        r"my_pad \(Pad\): pads by constant",
    ),
    "a pad of copies": (
        lambda: with_head(parts(Build()).node("Pad", "around", mode="edge").conv(pads=[0, 0, 0, 0]).node("Relu"), MAP),
        r"my_pad \(Pad\): pads by edge",
    ),
    "a pad in front of a pool": (
        lambda: parts(Build().conv().node("Relu")).node("Pad", "around").node("MaxPool", **POOL).end(),
        r"my_maxpool \(MaxPool\): behind zeros that a Pad adds; built there: a convolution",
    ),
    "a pad in front of an affine": (
        lambda: with_head(parts(Build()).node("Pad", "around").node("Add", "one").conv(pads=[0] * 4), MAP),
        r"my_add \(Add\): behind zeros that a Pad adds",
    ),
    "a pad that adds channels": (
        lambda: parts(Build()).node("Pad", "more").conv().end(), r"my_pad \(Pad\): pads .* around the image's two axes"
    ),
    "a pad and a same convolution": (
        lambda: with_head(parts(Build()).node("Pad", "around").conv().node("Relu"), 4 * 22 * 34),
        r"my_conv \(Conv\): pads \[2, 2, 2, 2\]; built: zero padding 'same'",
    ),
    "a pool with SAME that pads": (
        lambda: with_head(
            Build().conv().node("Relu").node("MaxPool", auto_pad="SAME_UPPER", kernel_shape=[3, 3], strides=[3, 3]),
            4 * 7 * 11),
        r"my_maxpool \(MaxPool\): auto_pad SAME_UPPER on a map of \[20, 32\]; built: floor",
    ),
    "a pool that pads behind": (
        lambda: with_head(
            Build().conv().node("Relu").node("MaxPool", pads=[0, 0, 1, 1], kernel_shape=[3, 3], strides=[3, 3]),
            4 * 7 * 11),
        r"my_maxpool \(MaxPool\): pads \[0, 0, 1, 1\] on a map of \[20, 32\]",
    ),
    "a maximum over channels": (
        lambda: with_head(Build().conv().node("ReduceMax", axes=[1], keepdims=1), 640),
        r"my_reducemax \(ReduceMax\): reduces the channels",
    ),
    "a maximum over the batch": (
        lambda: with_head(Build().conv().node("ReduceMax", axes=[0, 2, 3], keepdims=1), 4),
        r"my_reducemax \(ReduceMax\): reduces axes \[0, 2, 3\] of 4; built: axes of the image, without the batch",
    ),
    "a maximum of averages": (
        lambda: with_head(
            Build().conv().node("ReduceMean", axes=[3], keepdims=1).node("ReduceMax", axes=[2], keepdims=1), 4),
        r"my_reducemax \(ReduceMax\): a maximum of averages",
    ),
    "a mean of scores": (
        lambda: named(Build().conv().node("Relu"), "v", np.ones((6, 4, 1, 1), np.float32)).node("Conv", "v").node(
            "Sigmoid").node("GlobalAveragePool"),
        r"my_globalaveragepool \(GlobalAveragePool\): a mean of scores; built: the mean in front of the sigmoid",
    ),
    "the input once more": (
        lambda: with_head(Build().conv().node("Relu").node("Mul", "x"), MAP), r"my_mul \(Mul\): input 'x' is not a"
    ),
    "an affine along time": (
        lambda: with_head(
            named(Build().conv().node("Relu"), "t", np.arange(1, 33, dtype=np.float32)).node("Mul", "t"), MAP),
        r"my_mul \(Mul\): an affine along 2 of the image's axes; built: along the channels, or along all",
    ),
    "a convolution of flat data": (
        lambda: Build().conv().node("Flatten").node("Conv", "w", "b"), r"my_conv_2 \(Conv\): on data \['batch', 2560\]"
    ),
    "a constant times the data": (
        lambda: Build().conv().node("Relu").node("MaxPool", **POOL).node("Flatten").before("MatMul", "hw"),
        r"my_matmul \(MatMul\): a constant times the data; built: the data times a constant",
    ),
    "a convolution with channels last": (
        lambda: Build().conv().node("Transpose", perm=[0, 2, 3, 1]).conv().end(),
        r"my_conv_2 \(Conv\): on data \['batch', 20, 32, 4\]; built: on \[batch, C, H, W\], the channels in front",
    ),
    "an average that leaves some out": (
        lambda: with_head(Build().conv().node("AveragePool", kernel_shape=[20, 16], strides=[1, 16]), 8),
        r"my_averagepool \(AveragePool\): an average over part of the map",
    ),
    "a sigmoid of a map with channels last": (
        lambda: named(Build().conv().node("Transpose", perm=[0, 2, 3, 1]), "v", np.ones((4, 6), np.float32)).node(
            "MatMul", "v").node("Sigmoid").node("ReduceMax", axes=[1, 2], keepdims=0),
        r"my_sigmoid \(Sigmoid\): on data \['batch', 20, 32, 6\]; built: on \[batch, C, H, W\], the channels in front",
    ),
    "old training": (
        lambda: with_head(trained(Build().conv()), MAP), r"my_batchnormalization \(BatchNormalization\): in training"
    ),
    "channels of any number": (lambda: dynamic(ACCEPTED["plain"](), 1), r"x: an input of shape .*built: fixed sizes"),
    "two activations": (
        lambda: Build().conv().node("Relu").node("Elu").node("MaxPool", **POOL).end(),
        r"my_elu \(Elu\): a second activation in the block of my_conv \(Conv\)",
    ),
    "a sum of two paths": (lambda: beside(Build()), r"my_add \(Add\): input .* is not a constant"),
    "no sigmoid": (
        lambda: Build().conv().node("Relu").node("MaxPool", **POOL).node("Flatten").node("Gemm", "hw", "hb", transB=1),
        r"my_gemm \(Gemm\): the network must end in a sigmoid; say --logits",
    ),
    "softmax": (
        lambda: Build().conv().node("Flatten").node("Softmax"),
        r"my_softmax \(Softmax\): an operator that is not built",
    ),
    "a map of scores": (
        lambda: (
            named(Build().conv().node("Relu"), "v", np.ones((6, 4, 1, 1), np.float32)).node("Conv", "v").node("Sigmoid")
        ),
        r"my_conv_2 \(Conv\): the last layer gives a map of 20 x 32; built: one value a tag",
    ),
    "training": (
        lambda: with_head(named(Build().conv(), "one", np.ones(4, np.float32)).node(
            "BatchNormalization", "one", "one", "one", "one", training_mode=1), MAP),
        r"my_batchnormalization \(BatchNormalization\): in training mode",
    ),
    "negative variance": (
        lambda: with_head(named(Build().conv(), "one", -np.ones(4, np.float32)).node(
            "BatchNormalization", "one", "one", "one", "one"), MAP),
        r"my_batchnormalization \(BatchNormalization\): batch-norm: a variance is negative",
    ),
    "another image": (
        lambda: reject(lambda build: build.shape.__setitem__(slice(1, 4), [1, 24, 32]),
                       with_head(Build().conv().node("Relu"), 4 * 24 * 32))(),
        r"x: an input of 24 x 32; the front end gives 20 x 32",
    ),
    "an affine of every pixel": (
        lambda: named(Build(), "image", np.ones((20, 32), np.float32)).node("Mul", "image").conv().end(),
        r"my_mul \(Mul\): a constant of shape \[20, 32\]: it varies along more than one axis",
    ),
    "weights that do not fit": (
        lambda: Build().conv().node("Relu").end(), r"my_gemm \(Gemm\): weights \[6, 640\] for 2560 features"
    ),
    "a pool larger than the map": (
        lambda: Build().conv().node("Relu").node("MaxPool", kernel_shape=[21, 2], strides=[1, 1]).end(),
        r"my_maxpool \(MaxPool\): a window of \[21, 2\] on a map of \[20, 32\]",
    ),
    "waves": (
        lambda: reject(lambda build: build.shape.__setitem__(slice(1, 4), [8000]), Build().node("Relu"))(),
        r"x: an input of shape \['batch', 8000\]; built: .*a front end within the graph is not taken",
    ),
}  # fmt: skip


@pytest.mark.parametrize("axis", [2, 3])
def test_one_axis_of_any_length_has_the_front_end_s(tmp_path, like, axis) -> None:
    onnx.save(dynamic(ACCEPTED["plain"](), axis).model(), tmp_path / "net.onnx")
    assert convert_stack(str(tmp_path / "net.onnx"), like=like).scores <= 2e-6


@pytest.mark.parametrize("case", REJECTED)
def test_rejected(tmp_path, like, case) -> None:
    build, message = REJECTED[case]
    path = tmp_path / "net.onnx"
    onnx.save(build().model(), path)
    with pytest.raises(ModelError, match=f"^{path}: .*{message}") as error:
        convert_stack(str(path), like=like)
    assert "\n" not in str(error.value)


def test_logits(tmp_path, like) -> None:
    build = Build().conv().node("Relu").node("MaxPool", **POOL).node("Flatten").node("Gemm", "hw", "hb", transB=1)
    onnx.save(build.model(), tmp_path / "net.onnx")
    converted = convert_stack(str(tmp_path / "net.onnx"), like=like, logits=True)
    assert converted.scores <= 2e-6
    onnx.save(build.node("Sigmoid").model(), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="ends in a sigmoid; its output are not logits"):
        convert_stack(str(tmp_path / "net.onnx"), like=like, logits=True)
