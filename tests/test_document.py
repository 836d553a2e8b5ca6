"""ModelDocument: valid ones survive JSON unchanged, and each invalid one is refused by the name of its field."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.make_models import FRONTEND, block, make_model

from fcntag.errors import ModelError
from fcntag.model.document import MAX_JSON_BYTES, Dense, Log, ModelDocument, Pool, Segments, Variant


@pytest.fixture
def document(rng: np.random.Generator) -> ModelDocument:
    """96 mel bands would do; 20 keep it small. Two blocks, [20, 16] -> [10, 8] -> [1, 1]."""
    model = make_model(rng, [block(3, window=(2, 2)), block(4, window=(10, 8))], normalization="per_mel")
    variant = Variant(name="wide", note="other pools", pools=(Pool(window=(2, 2), stride=(2, 2)),) * 2)
    with_same_features = dataclasses.replace(
        variant, pools=(Pool(window=(1, 1), stride=(2, 2)), Pool(window=(10, 8), stride=(1, 1)))
    )
    return dataclasses.replace(model.document, variants=(with_same_features,)).validate()


def test_json_round_trip_is_exact(document: ModelDocument) -> None:
    again = ModelDocument.from_json(document.to_json())
    assert again == document
    assert again.to_json() == document.to_json()
    assert "\n" not in document.to_json()


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set the field at ``path``, e.g. ``blocks[0].pool.window[1]``."""

    def change(tree: Any) -> None:
        *steps, last = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", path)]
        for step in steps:
            tree = tree[step]
        tree[last] = value

    return change


def hidden_json(out_features: int, activation: str = "relu") -> dict[str, Any]:
    return {"out_features": out_features, "activation": activation}


REFUSED: list[tuple[str, Any, str]] = [
    ("format", 2, r"document\.format: 2 is not supported; this version reads 1"),
    ("format", True, r"document\.format: expected int, not True"),
    ("name", "", r"document\.name"),
    ("name", "a/b", r"document\.name"),
    ("tags", [], r"document\.tags: number: 0"),
    ("tags", "rock", r"document\.tags: expected a list, not 'rock'"),
    ("tags", ["rock"] * 7, r"document\.tags: 'rock' appears twice"),
    ("tags[3]", 3, r"document\.tags\[3\]: expected str, not 3"),
    ("licence", None, r"document\.licence: expected str, not None"),
    ("metrics", [{"dataset": "x", "name": "y", "value": 1}], r"document\.metrics\[0\]\.by: missing"),
    ("frontend.kind", "cqt", r"document\.frontend\.kind: 'cqt' is not one of mel, stft, mfcc"),
    ("frontend.sample_rate", 0, r"document\.frontend\.sample_rate: 0 is out of range; allowed: 1000 to 768000"),
    ("frontend.sample_rate", 16000.0, r"document\.frontend\.sample_rate: expected int"),
    ("frontend.n_fft", 32, r"document\.frontend\.n_fft: 32 is out of range; allowed: 64 to 8192"),
    ("frontend.hop_length", 0, r"document\.frontend\.hop_length: 0"),
    ("frontend.framing", "reflect", r"document\.frontend\.framing: 'reflect' is not one of center, valid,"),
    ("frontend.framing", ["center"], r"document\.frontend\.framing"),
    ("frontend.n_mels", 0, r"document\.frontend\.n_mels: 0"),
    ("frontend.fmin", -1, r"document\.frontend\.fmin: -1"),
    ("frontend.fmin", "0", r"document\.frontend\.fmin: expected float, not '0'"),
    ("frontend.fmax", 8001, r"document\.frontend\.fmax: 8001.* allowed: 0\.0 to 8000\.0"),
    ("frontend.fmax", 0, r"document\.frontend\.fmax"),
    ("frontend.fmax", 10**400, r"document\.frontend\.fmax: .* is out of range"),
    ("frontend.power_exponent", 3, r"document\.frontend\.power_exponent: 3"),
    (
        "frontend.log.kind",
        "pcen",
        r"document\.frontend\.log\.kind: 'pcen' is not one of db, log10p1, log1p, ln, log10, none",
    ),
    ("frontend.log.amin", 0, r"document\.frontend\.log\.amin: 0"),
    ("frontend.log.top_db", 0, r"document\.frontend\.log\.top_db: 0"),
    ("frontend.log.top_db", "80", r"document\.frontend\.log\.top_db: expected float, not '80'"),
    ("frontend.normalization", "batch", r"document\.frontend\.normalization"),
    ("segments.n_samples", 511, r"document\.segments\.n_samples: 511"),
    ("segments.n_samples", 1 << 40, r"document\.segments\.n_samples"),
    ("segments.hop_samples", 0, r"document\.segments\.hop_samples: 0"),
    ("segments.lead", 4000, r"document\.segments\.lead: 4000"),
    ("segments.trail", -1, r"document\.segments\.trail: -1"),
    ("segments.count", 0, r"document\.segments\.count: 0"),
    ("segments.min_samples", 4001, r"document\.segments\.min_samples: 4001"),
    ("segments.min_samples", 1000, r"document\.segments\.min_samples: 1000 samples give 0 features, not 4"),
    ("segments.aggregate", "max", r"document\.segments\.aggregate: 'max' is not one of mean"),
    ("blocks", [], r"document\.blocks: number: 0"),
    ("blocks[0]", [3], r"document\.blocks\[0\]: expected an object, not \[3\]"),
    ("blocks[0].kernel", 5, r"document\.blocks\[0\]\.kernel: 5 is not built; built: 1, 3"),
    ("blocks[0].in_channels", 2, r"document\.blocks\[0\]\.in_channels: 2, but 1 arrive"),
    ("blocks[1].in_channels", 4, r"document\.blocks\[1\]\.in_channels: 4, but 3 arrive"),
    ("blocks[1].out_channels", 8193, r"document\.blocks\[1\]\.out_channels: 8193 .* allowed: 1 to 8192"),
    ("blocks[1].activation", "tanh", r"document\.blocks\[1\]\.activation: 'tanh' is not one of relu, elu, none"),
    ("blocks[1].post_affine", 1, r"document\.blocks\[1\]\.post_affine: expected bool, not 1"),
    ("blocks[1].pool.window[0]", 11, r"document\.blocks\[1\]\.pool\.window\[0\]: 11 .* allowed: 1 to 10"),
    ("blocks[1].pool.window", [1, 1, 1], r"document\.blocks\[1\]\.pool\.window: expected 2 values, not 3"),
    ("blocks[1].pool.stride[1]", 0, r"document\.blocks\[1\]\.pool\.stride\[1\]: 0"),
    ("head.in_features", 5, r"document\.head\.in_features: 5, but the last block gives 4"),
    ("head.flatten", "whc", r"document\.head\.flatten: 'whc' is not one of chw, hwc, max, mean"),
    ("head.hidden", {}, r"document\.head\.hidden: expected a list, not \{\}"),
    ("head.hidden", [4], r"document\.head\.hidden\[0\]: expected an object, not 4"),
    ("head.hidden", [{"out_features": 4}], r"document\.head\.hidden\[0\]\.activation: missing"),
    ("head.hidden", [{"activation": "relu"}], r"document\.head\.hidden\[0\]\.out_features: missing"),
    (
        "head.hidden",
        [hidden_json(4, "tanh")],
        r"document\.head\.hidden\[0\]\.activation: 'tanh' is not one of relu, elu",
    ),
    ("head.hidden", [hidden_json(4), hidden_json(0)], r"document\.head\.hidden\[1\]\.out_features: 0 .* 1 to 65536"),
    ("head.hidden", [hidden_json(65537)], r"document\.head\.hidden\[0\]\.out_features: 65537 .* 1 to 65536"),
    ("head.hidden", [hidden_json(2**70)], r"document\.head\.hidden\[0\]\.out_features: 1180591620717411303424 "),
    ("head.hidden", [hidden_json(4)] * 9, r"document\.head\.hidden: number: 9 .* allowed: 0 to 8"),
    ("head.hidden", [hidden_json(4) | {"bias": True}], r"document\.head\.hidden\[0\]\.bias: unknown field"),
    ("head.activation", "softmax", r"document\.head\.activation"),
    ("variants[0].pools", [], r"document\.variants\[0\]\.pools: 0 pools for 2 blocks"),
    ("variants[0].pools[1].window[0]", 1, r"document\.head\.in_features"),
    ("surprise", 1, r"document\.surprise: unknown field; known: format, name,"),
    ("segments.surprise", 1, r"document\.segments\.surprise: unknown field"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED, ids=[f"{p}={str(v)[:20]}" for p, v, _ in REFUSED])
def test_a_bad_field_is_named(document: ModelDocument, path: str, value: Any, message: str) -> None:
    tree = json.loads(document.to_json())
    put(path, value)(tree)
    with pytest.raises(ModelError, match=f"^{message}") as caught:
        ModelDocument.from_json(json.dumps(tree))
    assert "\n" not in str(caught.value)


def paths(tree: Any, here: str = "") -> list[tuple[str, str]]:
    """(path of an object, name of a field in it) of every field in the tree."""
    found = []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        step = f"{here}.{key}" if isinstance(tree, dict) else f"{here}[{key}]"
        if isinstance(tree, dict):
            found.append((here, key))
        if isinstance(value, dict | list):
            found += paths(value, step)
    return found


OPTIONAL = {"gain", "amin", "ref", "top_db", "hop_samples", "lead", "trail", "count", "min_samples", "aggregate"} | {
    "post_affine",
    "pool",
    "note",
    "activation",
    "variants",
}


def test_every_required_field_is_missed(document: ModelDocument) -> None:
    checked = 0
    for where, key in paths(json.loads(document.to_json()), "document"):
        if key in OPTIONAL:
            continue
        tree = json.loads(document.to_json())
        node = tree
        for step in re.findall(r"\w+", where)[1:]:
            node = node[int(step) if step.isdigit() else step]
        del node[key]
        with pytest.raises(ModelError, match=f"^{re.escape(f'{where}.{key}')}: missing$"):
            ModelDocument.from_json(json.dumps(tree))
        checked += 1
    assert checked > 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", r"expected an object, not \[\]"),
        ("3", "expected an object"),
        ('{"name": NaN}', "NaN is not a number that JSON has"),
        ('{"name": 1, "name": 1}', "field 'name' appears twice"),
        ("[" * 100_000, "not valid JSON"),
        ('{"format": ' + "9" * 5000 + "}", ""),
        (" " * (MAX_JSON_BYTES + 1), "characters of JSON; at most"),
    ],
    ids=["empty", "cut", "list", "number", "NaN", "twice", "deep", "long number", "long"],
)
def test_bad_json_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"^document.*{message}") as caught:
        ModelDocument.from_json(text)
    assert len(str(caught.value)) < 400


def test_per_frame_normalization_fixes_the_length(document: ModelDocument) -> None:
    bad = dataclasses.replace(
        document,
        frontend=dataclasses.replace(document.frontend, normalization="per_frame"),
        segments=dataclasses.replace(document.segments, min_samples=3900),
        variants=(),
    )
    with pytest.raises(ModelError, match=r"segments\.min_samples: must be 0 with per_frame"):
        bad.validate()


@pytest.mark.parametrize(
    ("framing", "pad_mode", "lowest"),
    [("center", "reflect", 257), ("center", "constant", 1), ("same_theano", "reflect", 1)],
)
def test_a_segment_holds_what_reflection_reads(
    rng: np.random.Generator, framing: str, pad_mode: str, lowest: int
) -> None:
    # pools of 1 and a global maximum: a single frame gives every feature, so only the padding sets the lowest length
    model = make_model(rng, [block(3, window=(1, 1))], flatten="max")
    tree = json.loads(model.document.to_json())
    tree["frontend"].update(framing=framing, pad_mode=pad_mode)
    tree["segments"]["min_samples"] = lowest
    assert ModelDocument.from_json(json.dumps(tree)).segments.min_samples == lowest
    if lowest > 1:
        tree["segments"]["min_samples"] = lowest - 1
        with pytest.raises(ModelError, match=r"^document\.segments\.min_samples: 256 is out of range; allowed: 257 to"):
            ModelDocument.from_json(json.dumps(tree))
    tree["segments"]["min_samples"] = 0  # never shorter than n_samples, which is at least n_fft
    assert ModelDocument.from_json(json.dumps(tree)).segments.n_samples >= 512


def test_frames_and_padding_of_every_framing(document: ModelDocument) -> None:
    def frontend(framing: Any) -> Any:
        return dataclasses.replace(document.frontend, framing=framing)

    # librosa: 1 + n // hop, n_fft / 2 on either side.
    assert [frontend("center").n_frames(n) for n in (255, 256, 349440)] == [1, 2, 1366]
    assert frontend("center").pad_left(349440) == 256
    assert [frontend("valid").n_frames(n) for n in (100, 511, 512, 767, 768, 48128)] == [0, 0, 1, 1, 2, 187]
    assert frontend("valid").pad_left(48128) == 0
    assert [frontend("same_theano").n_frames(n) for n in (1, 256, 257, 348000)] == [1, 1, 2, 1360]
    assert frontend("same_theano").pad_left(348000) == 256
    # TensorFlow SAME: 1359 * 256 + 512 - 348000 = 416 zeros, half of them in front.
    assert frontend("same_tensorflow").n_frames(348000) == 1360
    assert frontend("same_tensorflow").pad_left(348000) == 208
    # tf.signal.stft(pad_end=True): a frame for every step that begins in the signal.
    assert [frontend("pad_end").n_frames(n) for n in (1, 256, 257, 4000)] == [1, 1, 2, 16]
    assert frontend("pad_end").pad_left(4000) == 0


def test_frames_of_other_lengths(document: ModelDocument) -> None:
    def frontend(**changed: Any) -> Any:
        return dataclasses.replace(document.frontend, **changed)

    # An odd length, padded by 220 on both sides: the last of 441 samples must still be there.
    odd = frontend(n_fft=441, hop_length=147, framing="center")
    assert [odd.n_frames(n) for n in (441, 442, 588, 589)] == [3, 4, 4, 5]
    assert odd.pad_left(441) == 220
    # Gaps: as many frames as begin.
    assert frontend(n_fft=64, hop_length=1000, framing="same_tensorflow").n_frames(2001) == 3
    assert frontend(n_fft=64, hop_length=1000, framing="same_tensorflow").pad_left(2001) == 31
    # tf.signal.stft counts by frame_length and pads to fft_length behind that.
    start = frontend(n_fft=512, win_length=400, win_position="start", framing="valid", hop_length=160)
    assert (start.frame_length, start.window_length) == (400, 400)
    assert [start.n_frames(n) for n in (399, 400, 559, 560, 16000)] == [0, 1, 1, 2, 98]
    middle = frontend(n_fft=512, win_length=400, framing="valid", hop_length=160)
    assert (middle.frame_length, middle.window_length) == (512, 400)
    assert [middle.n_frames(n) for n in (511, 512)] == [0, 1]


def test_librosa_s_frames(rng: np.random.Generator) -> None:
    librosa = pytest.importorskip("librosa", reason="librosa is not installed")
    for n_fft in (64, 401, 441, 2048):
        for n_samples in (2100, 2205, 2206):
            theirs = librosa.stft(rng.standard_normal(n_samples), n_fft=n_fft, hop_length=147).shape[1]
            frontend = dataclasses.replace(FRONTEND, n_fft=n_fft, hop_length=147)
            assert frontend.n_frames(n_samples) == theirs


def test_later_fields_are_left_out_where_they_say_nothing(document: ModelDocument) -> None:
    tree = json.loads(document.to_json())
    assert not {"win_length", "win_position", "spectrum"} & set(tree["frontend"])
    assert "offset" not in tree["frontend"]["log"]
    tree["frontend"] |= {"win_length": 300, "win_position": "start", "spectrum": "magnitude"}
    tree["frontend"]["log"] = {"kind": "ln", "offset": 1e-6}
    read = ModelDocument.from_json(json.dumps(tree))
    again = json.loads(read.to_json())["frontend"]
    assert (again["win_length"], again["win_position"], again["spectrum"]) == (300, "start", "magnitude")
    assert again["log"]["offset"] == 1e-6
    assert ModelDocument.from_json(read.to_json()) == read


def test_a_window_of_a_track_holds_a_frame(rng: np.random.Generator) -> None:
    def make(n_samples: int, **frontend: Any) -> Any:
        return make_model(rng, [block(2, kernel=1)], flatten="max", n_samples=n_samples, **frontend)

    make(300, n_fft=1024, win_length=300, win_position="start", framing="valid", hop_length=256)
    with pytest.raises(ModelError, match=r"^document\.segments\.n_samples: 299 is out of range; allowed: 300 to"):
        make(299, n_fft=1024, win_length=300, win_position="start", framing="pad_end")
    with pytest.raises(ModelError, match=r"^document\.segments\.n_samples: 512 is out of range; allowed: 513 to"):
        make(512, n_fft=1024, win_length=300, win_position="start", framing="center", pad_mode="reflect")
    with pytest.raises(ModelError, match=r"^document\.segments\.n_samples: 1023 is out of range; allowed: 1024 to"):
        make(1023, n_fft=1024, framing="pad_end")


def test_sizes_features_and_tensors(document: ModelDocument) -> None:
    assert document.map_sizes() == [(20, 16), (10, 8), (1, 1)]
    assert document.n_features() == 4
    assert document.n_features(2000) == 0
    assert document.tensor_shapes() == {
        "input.scale": (20,),
        "input.shift": (20,),
        "blocks.0.weight": (3, 1, 3, 3),
        "blocks.0.bias": (3,),
        "blocks.1.weight": (4, 3, 3, 3),
        "blocks.1.bias": (4,),
        "head.weight": (7, 4),
        "head.bias": (7,),
    }
    assert document.multiply_adds() == 20 * 16 * 1 * 3 * 9 + 10 * 8 * 3 * 4 * 9 + 7 * 4


def test_hidden_layers_have_tensors_and_a_place_in_the_json(document: ModelDocument) -> None:
    hidden = (Dense(out_features=5, activation="elu"), Dense(out_features=65536, activation="none"))
    head = dataclasses.replace(document.head, flatten="mean", hidden=hidden)
    wide = dataclasses.replace(document, head=head, variants=()).validate()
    assert wide.head == head
    assert (wide.head.in_features, wide.head.last_features) == (4, 65536)
    shapes = wide.tensor_shapes()
    assert list(shapes)[-6:] == [
        f"head.{name}"
        for name in ("hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "hidden.1.bias", "weight", "bias")
    ]
    assert [shapes[name] for name in list(shapes)[-6:]] == [(5, 4), (5,), (65536, 5), (65536,), (7, 65536), (7,)]
    assert wide.multiply_adds() - document.multiply_adds() == 5 * 4 + 65536 * 5 + 7 * 65536 - 7 * 4
    tree = json.loads(wide.to_json())
    assert tree["head"]["hidden"][0] == hidden_json(5, "elu")
    assert "hidden" not in json.loads(document.to_json())["head"]  # the bytes that older readers know


def test_a_global_mean_has_a_feature_a_channel(document: ModelDocument) -> None:
    blocks = tuple(dataclasses.replace(b, pool=Pool(window=(2, 2), stride=(2, 2))) for b in document.blocks)
    head = dataclasses.replace(document.head, flatten="mean")
    assert dataclasses.replace(document, blocks=blocks, head=head, variants=()).validate().n_features() == 4


def test_time_mel_turns_the_input(document: ModelDocument) -> None:
    turned = dataclasses.replace(document, frontend=dataclasses.replace(document.frontend, layout="time_mel"))
    assert turned.input_size() == (16, 20)


def test_variant_changes_pools_and_name_only(document: ModelDocument) -> None:
    variant = document.with_variant("wide")
    assert variant.name == "random-wide"
    assert [b.pool for b in variant.blocks] == list(document.variants[0].pools)
    assert variant.notes == ("other pools",)
    assert variant.tensor_shapes() == document.tensor_shapes()
    assert variant.validate() == variant
    with pytest.raises(ModelError, match="random: no variant 'deep'; it has: wide"):
        document.with_variant("deep")


def test_log10p1_needs_its_gain(document: ModelDocument) -> None:
    frontend = dataclasses.replace(document.frontend, log=Log(kind="log10p1"))
    with pytest.raises(ModelError, match=r"frontend\.log\.gain: 0\.0"):
        dataclasses.replace(document, frontend=frontend).validate()


def test_hop_fields_are_free_where_the_rule_is_another(document: ModelDocument) -> None:
    segments = Segments(rule="center", n_samples=document.segments.n_samples, short="zeros")
    assert dataclasses.replace(document, segments=segments).validate().segments == segments
