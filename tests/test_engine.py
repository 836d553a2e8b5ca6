"""The CPU engine against the float64 oracle, on shapes of its own: odd sizes, every pool and instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from support.make_models import block, make_model

from fcntag import _C, oracle
from fcntag.engine import CpuEngine, create_engine

# Relative L2 of a block's output in float32: the sum of at most 9 * 2048 products in chunks of 64 channels.
BLOCK_TOLERANCE = 1e-6
SCORE_TOLERANCE = 1e-5

NETWORKS = {
    # Cin and Cout that fill no block of 16, remainder rows and columns, overlapping and gapped pools, 1x1 last.
    "odd": dict(
        blocks=[
            block(5, window=(2, 2)),
            block(7, activation="elu", affine=True, window=(2, 3), stride=(1, 2)),
            block(33, kernel=1, activation="none"),
        ]
    ),
    # musicnn's first pool, then channels on both sides of a block.
    "overlap": dict(
        blocks=[
            block(40, affine=True, window=(4, 1), stride=(2, 2)),
            block(17, affine=True, window=(2, 1), stride=(3, 2)),
            block(64, activation="elu", window=(1, 1)),
        ],
        flatten="hwc",
        layout="time_mel",
    ),
    # Maps of one channel behind the first block: in blocks of channels like any other, unlike the input.
    "one channel": dict(
        blocks=[
            block(1, activation="elu", window=(2, 2)),
            block(18, activation="elu", affine=True, window=(1, 2)),
            block(1, activation="elu", kernel=1),
            block(1, activation="elu", affine=True, window=(2, 1)),
            block(5),
        ]
    ),
    # 1x1 first, wide middle, global maximum.
    "one by one": dict(
        blocks=[block(3, kernel=1, activation="elu", affine=True), block(200, window=(3, 5)), block(70, affine=True)],
        flatten="max",
    ),
    # the deepest map of the paper's FCN-4: 4 x 8 into one window, more than one chunk of channels.
    "deep": dict(
        blocks=[block(48, window=(2, 1)), block(150, window=(2, 2)), block(96, window=(4, 7))],
        n_samples=256 * 16,
        n_mels=20,
    ),
    # Maps that are mostly border, and more than one chunk of channels; the second goes on below its windows.
    "small map": dict(
        blocks=[block(20, window=(2, 2)), block(150, window=(2, 2)), block(40, affine=True, window=(4, 8))],
        n_samples=256 * 32,
        n_mels=16,
    ),
    "small map and a row": dict(
        blocks=[block(20, window=(2, 2)), block(70, window=(2, 2)), block(24, window=(2, 4))],
        n_samples=256 * 18,
        n_mels=12,
    ),
    # Winograd with units beyond the map, both ways of sharing work (more than 256 channels share the tiles), no pool.
    "winograd": dict(
        blocks=[
            block(20),
            block(36, activation="elu", affine=True, window=(2, 3)),
            block(300),
            block(24, window=(1, 1)),
            block(40, affine=True, activation="none", window=(3, 5)),
        ],
        n_samples=256 * 40,
        n_mels=30,
    ),
    # Windows whose sides divide a tile: Winograd pools them in registers.
    "winograd, quarters": dict(
        blocks=[
            block(20),
            block(36, activation="elu", affine=True, window=(1, 4)),
            block(40, affine=True, window=(2, 4)),
            block(24, activation="none", window=(4, 1)),
        ],
        n_samples=256 * 48,
        n_mels=30,
    ),
    "winograd, whole tiles": dict(
        blocks=[block(20), block(36, affine=True, window=(4, 4)), block(24)], n_samples=256 * 24, n_mels=22
    ),
    # Every pool that the first block takes in registers, with outputs that fill no tile; the last by the general way.
    "first block": dict(blocks=[block(20, window=(3, 5), affine=True)]),
    "first block, quarters": dict(blocks=[block(17, activation="elu", window=(2, 4))]),
    "first block, halves": dict(blocks=[block(19, activation="none", window=(1, 2))]),
    "first block, rows": dict(blocks=[block(21, affine=True, window=(1, 4))]),
    "first block, columns": dict(blocks=[block(33, window=(4, 1))]),
    "first block, any": dict(blocks=[block(18, affine=True, window=(2, 3), stride=(3, 4))]),
    # Hidden layers that fill no vector, one wider than a chunk of inputs, and every way of making features.
    "hidden": dict(
        blocks=[block(20, window=(2, 2)), block(36, affine=True, window=(2, 2))],
        hidden=[(100, "relu"), (65, "none"), (7, "elu")],
    ),
    "hidden, channel fastest": dict(
        blocks=[block(24, activation="elu", affine=True, window=(3, 4))],
        flatten="hwc",
        layout="time_mel",
        hidden=[(300, "elu"), (1, "none"), (33, "relu")],
    ),
    "hidden, mean": dict(
        blocks=[block(20, window=(2, 2)), block(70, activation="none", affine=True)],
        flatten="mean",
        hidden=[(128, "relu")],
    ),
    "hidden, maximum": dict(blocks=[block(17, affine=True, window=(2, 2))], flatten="max", hidden=[(5, "relu")]),
    "mean": dict(blocks=[block(33, affine=True, window=(2, 3))], flatten="mean"),
    "single pixel": dict(blocks=[block(1, window=(20, 16))]),
}


@pytest.fixture(params=NETWORKS)
def model(request, rng):
    return make_model(rng, **NETWORKS[request.param])


def relative_l2(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("batch", [1, 3])
def test_blocks_match_the_oracle(model, rng, batch):
    x = rng.standard_normal((batch, *model.document.input_size())).astype(np.float32)
    with create_engine(model, threads=2) as engine:
        ours, theirs = engine.blocks(x), oracle.blocks(model, x)
        assert [a.shape for a in ours] == [b.shape for b in theirs]
        errors = [relative_l2(a, b) for a, b in zip(ours, theirs, strict=True)]
        assert max(errors) <= BLOCK_TOLERANCE, errors
        np.testing.assert_allclose(engine.scores_of(x), oracle.scores_of(model, x), atol=SCORE_TOLERANCE, rtol=0)


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_either_algorithm_matches_the_oracle(model, rng, algorithm):
    """Whatever the cost model would choose: both ways hold the tolerance, wherever they can run."""
    x = rng.standard_normal((2, *model.document.input_size())).astype(np.float32)
    with CpuEngine(model, threads=2, algorithm=algorithm, reduce=False) as engine:
        errors = [relative_l2(a, b) for a, b in zip(engine.blocks(x), oracle.blocks(model, x), strict=True)]
        used = set(engine.algorithms)
    assert max(errors) <= BLOCK_TOLERANCE, errors
    assert used == {"direct"} if algorithm == "direct" else used <= {"direct", "winograd"}


FIRST_WINDOWS = {  # window, stride -> the first block's code for it, in 3x3
    ((2, 1), (2, 1)): (2, 1),
    ((4, 1), (2, 2)): (4, 1),
    ((3, 2), (3, 2)): (3, 2),
    ((2, 4), (2, 4)): (2, 4),
    ((3, 5), (3, 5)): (3, 5),
    ((2, 3), (2, 3)): "general",
    ((2, 2), (2, 1)): "general",
    ((1, 8), (1, 8)): "general",
}
WINOGRAD_WINDOWS = {(1, 1): (1, 1), (1, 4): (1, 4), (2, 2): (2, 2), (2, 4): (2, 4), (4, 4): (4, 4)}
WINOGRAD_WINDOWS |= dict.fromkeys([(4, 1), (2, 1), (3, 5), (2, 8)], "general")


def plan_and_errors(model, rng, algorithm):
    """The plan of a model's largest input, and every block's distance from the oracle."""
    x = rng.standard_normal((2, *model.document.input_size())).astype(np.float32)
    with CpuEngine(model, threads=2, algorithm=algorithm, reduce=False) as engine:
        errors = [relative_l2(a, b) for a, b in zip(engine.blocks(x), oracle.blocks(model, x), strict=True)]
        return engine.describe_plan(), errors


@pytest.mark.parametrize(("pool", "code"), FIRST_WINDOWS.items(), ids=str)
def test_the_plan_names_the_first_block_s_window(pool, code, rng):
    model = make_model(rng, [block(18, window=pool[0], stride=pool[1], affine=True)])
    (plan,), errors = plan_and_errors(model, rng, "auto")
    assert (plan["index"], plan["algorithm"], plan["window"], plan["stride"]) == (0, "direct", *pool)
    assert plan["code"] == code
    assert (
        plan["strips"] * plan["strip_rows"]
        >= model.document.map_sizes()[-1][0]
        > (plan["strips"] - 1) * plan["strip_rows"]
    )
    assert max(errors) <= BLOCK_TOLERANCE


@pytest.mark.parametrize(("window", "code"), WINOGRAD_WINDOWS.items(), ids=str)
def test_the_plan_names_a_winograd_block_s_window(window, code, rng):
    model = make_model(rng, [block(20), block(33, window=window, activation="elu")], n_samples=256 * 40, n_mels=30)
    plans, errors = plan_and_errors(model, rng, "winograd")
    assert [plan["algorithm"] for plan in plans] == ["direct", "winograd"]
    assert plans[1]["code"] == code
    assert (plans[1]["unit"] == (1, 1)) == all(4 % side == 0 for side in window)
    assert max(errors) <= BLOCK_TOLERANCE


def test_the_plan_of_what_has_no_windows_of_its_own(rng):
    """A 1x1 first block has the general code; other direct blocks have one code for every window."""
    model = make_model(rng, [block(6, kernel=1, window=(2, 2)), block(8, window=(2, 2))])
    plans, errors = plan_and_errors(model, rng, "direct")
    assert [plan["code"] for plan in plans] == ["general", "any"]
    assert max(errors) <= BLOCK_TOLERANCE


@pytest.mark.parametrize("which", ["head", "blocks"])
def test_features_match_the_oracle(model, rng, which):
    waves = rng.standard_normal((2, model.document.segments.n_samples)).astype(np.float32)
    expected = oracle.features(model, oracle.network_input(model, waves), which)
    with create_engine(model, threads=2) as engine:
        ours = engine.features(waves, which)
    assert ours.shape == expected.shape
    # A hidden layer of few features may cancel most of what it adds, and shows the rounding of the blocks larger.
    hidden = which == "head" and model.document.head.hidden
    assert relative_l2(ours, expected) <= (5 if hidden else 1) * BLOCK_TOLERANCE


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["hidden", "hidden, channel fastest", "hidden, mean", "wide"])
def test_hidden_layers_on_their_own_match_the_oracle(rng, name, threads):
    """From the last map that the engine really had, for batches around the sizes that a kernel takes at once."""
    wide = dict(blocks=[block(32, window=(4, 4))], hidden=[(1100, "elu"), (40, "relu")])  # shared among the threads
    model = make_model(rng, **(wide if name == "wide" else NETWORKS[name]))
    x = rng.standard_normal((14, *model.document.input_size())).astype(np.float32)
    with CpuEngine(model, threads=threads, reduce=False) as engine:
        for batch in (1, 5, 6, 7, 14):
            blank = np.full((14, 2000), np.nan, np.float32)  # so that new arrays are not zeros by chance
            del blank
            found = engine._network.run(x[:batch], features=True, blocks=True)
            expected = oracle.embedding(model, found["blocks"][-1].astype(np.float64))
            assert relative_l2(found["features"], expected) <= BLOCK_TOLERANCE
            logits = oracle.dense_layer(model, "head", found["features"])
            np.testing.assert_allclose(found["logits"], logits, rtol=1e-6, atol=1e-6)
            if batch == 1:
                alone = found["features"]
            assert np.array_equal(found["features"][0], alone[0])  # bit for bit, whatever comes beside it


@pytest.mark.parametrize("activation", ["relu", "elu", "none"])
def test_channels_without_weights_are_constants(activation, rng):
    """Reduced networks carry their constants in such a channel; the engine does not compute it."""
    blocks = [block(33, activation=activation, affine=True), block(65, activation=activation, window=(2, 2)), block(20)]
    model = make_model(rng, blocks=blocks, n_samples=256 * 40, n_mels=30)
    for name, channel in (("blocks.0", 32), ("blocks.1", 64), ("blocks.1", 10)):
        model.tensors[f"{name}.weight"][channel] = 0
        model.tensors[f"{name}.bias"][channel] = -0.7
    x = rng.standard_normal((20, *model.document.input_size())).astype(np.float32)
    constants = {}
    for algorithm in ("direct", "winograd"):
        with CpuEngine(model, threads=2, algorithm=algorithm, reduce=False) as engine:
            engine.scores_of(np.full((3, *x.shape[1:]), np.nan, np.float32))
            maps = engine.blocks(x)
        errors = [relative_l2(a, b) for a, b in zip(maps, oracle.blocks(model, x), strict=True)]
        assert max(errors) <= BLOCK_TOLERANCE, (algorithm, errors)
        constants[algorithm] = maps[1][:, [10, 64]]
    assert np.array_equal(constants["direct"], constants["winograd"])  # one epilogue, not one within a tolerance


def test_results_do_not_depend_on_batch_position_or_threads(model, rng):
    waves = rng.standard_normal((37, model.document.segments.n_samples)).astype(np.float32)
    with create_engine(model, threads=1) as engine:
        alone = np.concatenate([engine.scores(w[None]) for w in waves])
    for threads in (1, 2, 5):
        for max_batch in (1, 3, 64):
            with create_engine(model, threads=threads, max_batch=max_batch) as engine:
                assert np.array_equal(engine.scores(waves), alone)
                assert np.array_equal(engine.scores(waves[::-1]), alone[::-1])


def test_nothing_stays_in_the_buffers(model, rng):
    """Buffers are reused: an input of NaN must leave no trace in the next result, borders included."""
    height, width = model.document.input_size()
    x = rng.standard_normal((3, height, width)).astype(np.float32)
    with create_engine(model, threads=2) as engine:
        before = engine.scores_of(x)
        engine.scores_of(np.full((5, height, width), np.nan, np.float32))
        engine.scores_of(np.full((5, height, width), 1e30, np.float32))
        assert np.array_equal(engine.scores_of(x), before)


def test_empty_batch(model):
    height, width = model.document.input_size()
    with create_engine(model) as engine:
        assert engine.scores_of(np.zeros((0, height, width), np.float32)).shape == (0, 7)
        assert engine.scores(np.zeros((0, model.document.segments.n_samples), np.float32)).shape == (0, 7)
        assert [b.shape[0] for b in engine.blocks(np.zeros((0, height, width), np.float32))] == [0] * len(
            model.document.blocks
        )
        features = engine.features(np.zeros((0, model.document.segments.n_samples), np.float32))
        assert features.shape == (0, model.document.head.last_features)


def test_shorter_input_in_between(rng):
    """A network that takes several lengths replans its buffers; zero borders must move with the map."""
    model = make_model(
        rng, [block(6, window=(2, 2)), block(9, window=(5, 3))], flatten="max", n_samples=8000, min_samples=4000
    )
    long = rng.standard_normal((2, 8000)).astype(np.float32)
    short = rng.standard_normal((2, 5000)).astype(np.float32)
    with create_engine(model, threads=2) as engine:
        for waves in (long, short, long, short):
            np.testing.assert_allclose(engine.scores(waves), oracle.scores(model, waves), atol=SCORE_TOLERANCE, rtol=0)


FRONTENDS = {
    "musicnn": dict(
        framing="valid", pad_mode="constant", rounding="float16", log=dict(kind="log10p1", gain=1e4), layout="time_mel"
    ),
    "choi2016": dict(power_exponent=2, log=dict(kind="db", amin=1e-10, top_db=80.0), normalization="per_frame"),
    "kapre theano": dict(
        framing="same_theano",
        pad_mode="constant",
        window="hann_reversed",
        log=dict(kind="db", amin=1e-10, ref="max", top_db=80.0),
        normalization="per_mel",
    ),
    "kapre tensorflow": dict(
        framing="same_tensorflow",
        pad_mode="constant",
        log=dict(kind="db", amin=1e-10, ref="max", top_db=80.0),
        normalization="standardize",
    ),
    "won2020": dict(mel_scale="htk", mel_norm="none", normalization="scalar"),
}


@pytest.mark.parametrize("name", FRONTENDS)
@pytest.mark.parametrize("n_samples", [512, 4000, 70001])
def test_log_mel_matches_the_oracle(name, n_samples, rng):
    from fcntag.model.document import Log

    options = dict(FRONTENDS[name])
    if "log" in options:
        options["log"] = Log(**options["log"])
    model = make_model(rng, [block(2)], flatten="max", n_samples=n_samples, **options)
    t = np.arange(n_samples) / 16000
    signals = [rng.standard_normal(n_samples), np.sin(2 * np.pi * 440 * t), np.zeros(n_samples), 1e-6 * np.sin(t)]
    signals.append(np.eye(1, n_samples, n_samples // 2)[0])
    waves = np.array(signals, np.float32)
    with create_engine(model, threads=2) as engine:
        ours = engine.log_mel(waves)
        again = np.concatenate([engine.log_mel(w[None]) for w in waves])
    expected = oracle.network_input(model, waves)
    assert ours.shape == expected.shape
    # Both sides compute in float64; what is left is the float32 store of values up to a few hundred dB, and
    # standardisation of a constant segment, which divides rounding noise by 1e-10 (both then give 0 / 1e-10).
    np.testing.assert_allclose(ours, expected, atol=2e-4, rtol=1e-6)
    assert np.array_equal(ours, again)


@pytest.mark.parametrize("isa", _C.build_info()["isas_available"])
def test_every_instruction_set(isa, tmp_path):
    """The instruction set is chosen once per process, so each gets a process of its own."""
    script = textwrap.dedent(
        """
        import numpy as np, sys
        sys.path.insert(0, sys.argv[1])
        from support.make_models import block, make_model
        from test_engine import NETWORKS, relative_l2
        from fcntag import oracle
        from fcntag.engine import create_engine
        for name, spec in NETWORKS.items():
            rng = np.random.default_rng(1)
            model = make_model(rng, **spec)
            x = rng.standard_normal((3, *model.document.input_size())).astype(np.float32)
            waves = rng.standard_normal((2, model.document.segments.n_samples)).astype(np.float32)
            with create_engine(model, threads=2) as engine:
                print(engine.isa, name)
                for ours, theirs in zip(engine.blocks(x), oracle.blocks(model, x), strict=True):
                    assert relative_l2(ours, theirs) <= 1e-6, name
                assert np.abs(engine.scores(waves) - oracle.scores(model, waves)).max() <= 1e-5, name
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        env={**os.environ, "FCNTAG_FORCE_ISA": isa},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()] == [isa] * len(NETWORKS)


@pytest.mark.skipif(not _C.build_info()["bfloat16"], reason="this CPU has no AVX512_BF16")
@pytest.mark.parametrize("name", ["winograd", "deep", "odd"])
def test_bfloat16_blocks_stay_near_the_oracle(name, rng):
    """8 bits of mantissa on both operands, sums in float32: about 2^-8 relative per block, a little more through the
    transforms; blocks that are not Winograd's stay float32."""
    model = make_model(rng, **NETWORKS[name])
    x = rng.standard_normal((3, *model.document.input_size())).astype(np.float32)
    with create_engine(model, precision="bfloat16", threads=2) as engine:
        assert engine.precision == "bfloat16"
        errors = [relative_l2(a, b) for a, b in zip(engine.blocks(x), oracle.blocks(model, x), strict=True)]
        again = np.concatenate([engine.scores_of(x[i : i + 1]) for i in range(3)])
        assert np.array_equal(engine.scores_of(x), again)
    assert max(errors) < 1.2e-2
    assert errors[0] <= BLOCK_TOLERANCE
    assert (max(errors) > 1e-4) == (name != "odd")  # it really is another arithmetic, and only where Winograd runs


@pytest.mark.parametrize("name", ["mtt-vgg", "msd-vgg"])
def test_reduced_and_whole_networks_agree(models, name, rng):
    """Two float32 computations of the same scores; what goes in and comes out has the same shapes."""
    whole, reduced = (create_engine(models(name), reduce=reduce, threads=2) for reduce in (False, True))
    assert whole.reduction is None
    assert reduced.reduction.macs_after < 0.5 * reduced.reduction.macs_before
    waves = (0.1 * rng.standard_normal((3, models(name).document.segments.n_samples))).astype(np.float32)
    x = whole.log_mel(waves)
    assert np.array_equal(x, reduced.log_mel(waves))
    np.testing.assert_allclose(reduced.scores(waves), whole.scores(waves), atol=2e-6, rtol=0)
    np.testing.assert_allclose(reduced.scores_of(x), whole.scores_of(x), atol=2e-6, rtol=0)
    np.testing.assert_allclose(reduced.features(waves), whole.features(waves), atol=1e-4, rtol=1e-4)
    assert np.array_equal(reduced.features(waves, "blocks"), whole.features(waves, "blocks"))
    assert all(np.array_equal(a, b) for a, b in zip(reduced.blocks(x), whole.blocks(x), strict=True))
