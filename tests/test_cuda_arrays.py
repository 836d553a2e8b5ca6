"""Scores of arrays that lie on the GPU, and of PCM that is mixed and resampled there; on the emulator."""

from __future__ import annotations

import numpy as np
import pytest
from test_cuda_engine import Elsewhere, small_model, waves_for

from fcntag import Tagger
from fcntag.engine import resample_filter
from fcntag.engine.cuda import CudaEngine
from fcntag.errors import DeviceError

pytestmark = pytest.mark.usefixtures("cuda_core")


class ByDlpack:
    """Host memory that claims to lie on a GPU: DLPack."""

    def __init__(self, array: np.ndarray, device: int = 0) -> None:
        self.array, self.asked, self.device = array, [], device

    def __dlpack_device__(self):
        return 2, self.device

    def __dlpack__(self, stream=None):
        self.asked.append(stream)
        return self.array.__dlpack__()


# ---- arrays on the device ----


@pytest.mark.parametrize("kind", [Elsewhere, ByDlpack])
def test_device_arrays_are_taken_in_place(rng, kind):
    model = small_model(rng)
    waves = waves_for(model, rng, 3)
    with Tagger(model, device="cuda", max_batch=4) as tagger:
        expected = tagger.scores(waves)
        out = np.full((3, 7), np.nan, np.float32)
        target = kind(out)
        assert tagger.scores(kind(waves), out=target) is target
        np.testing.assert_array_equal(out, expected)
        # a stream of the caller's, and rows that lie further apart than they are long
        wide = np.full((3, waves.shape[1] + 100), np.nan, np.float32)
        wide[:, : waves.shape[1]] = waves
        out[:] = np.nan
        tagger.scores(kind(wide[:, : waves.shape[1]]), out=kind(out), stream=0)
        np.testing.assert_array_equal(out, expected)
        # other addresses and other counts through the same recorded graph
        for count in (1, 2):
            part = np.full((count, 7), np.nan, np.float32)
            tagger.scores(kind(waves[1 : 1 + count].copy()), out=kind(part))
            np.testing.assert_array_equal(part, expected[1 : 1 + count])


def test_a_dlpack_producer_is_told_the_stream(rng):
    model = small_model(rng)
    with CudaEngine(model, max_batch=1) as engine:
        waves, out = ByDlpack(waves_for(model, rng, 1)), ByDlpack(np.zeros((1, 7), np.float32))
        engine.scores(waves, out=out)
        assert waves.asked == [1]  # the legacy default stream, in DLPack's numbers


def test_the_callers_neighbours_are_not_written(rng):
    model = small_model(rng)
    with CudaEngine(model, max_batch=8) as engine:  # three clips run in the bucket of four
        guarded = np.full((5, 7), np.nan, np.float32)
        engine.scores(Elsewhere(waves_for(model, rng, 3)), out=Elsewhere(guarded[1:4]))
        assert np.isfinite(guarded[1:4]).all()
        assert np.isnan(guarded[[0, 4]]).all()


def test_bad_device_arrays_are_named(rng):
    model = small_model(rng)
    waves, out = waves_for(model, rng, 2), np.zeros((2, 7), np.float32)
    with Tagger(model, device="cuda", max_batch=2) as tagger:
        for bad, message in (
            ((Elsewhere(waves.astype(np.float64)), Elsewhere(out)), r"waves: elements are <f8; expected float32"),
            (
                (ByDlpack(waves.astype(np.float64)), Elsewhere(out)),
                r"waves: elements are DLPack type 2; expected float32",
            ),
            ((ByDlpack(waves, device=1), Elsewhere(out)), r"waves: lies on GPU 1; this engine computes on GPU 0"),
            ((Elsewhere(waves[0]), Elsewhere(out)), r"waves: shape \[4000\]; expected \[B, n_samples\]"),
            ((Elsewhere(waves[:, ::2]), Elsewhere(out)), r"waves: shape \[2, 2000\]; .*rows without gaps"),
            ((Elsewhere(waves[:, :100]), Elsewhere(out)), r"waves: n_samples=100; random takes 4000"),
            ((Elsewhere(np.repeat(waves, 2, 0)), Elsewhere(out)), r"4 segments; at most max_batch=2"),
            ((Elsewhere(waves), Elsewhere(out[:1])), r"out: shape \[1, 7\]; expected \[2, 7\]"),
            ((Elsewhere(waves), Elsewhere(out, readonly=True)), r"out: is read-only"),
            ((Elsewhere(waves), Elsewhere(out.astype(np.float16))), r"out: elements are <f2"),
        ):
            with pytest.raises(ValueError, match=message):
                tagger.scores(bad[0], out=bad[1])
        with pytest.raises(TypeError, match="out: list is no array on a GPU"):
            tagger.scores(Elsewhere(waves), out=[])
        with pytest.raises(TypeError, match="stream: str"):
            tagger.scores(Elsewhere(waves), out=Elsewhere(out), stream="0")
        with pytest.raises(ValueError, match="out and stream go with waves on the GPU"):
            tagger.scores(waves, out=Elsewhere(out))
        with pytest.raises(DeviceError, match=r"pass out=, or install CuPy"):
            tagger.scores(Elsewhere(waves))
        np.testing.assert_array_equal(tagger.scores(waves).shape, (2, 7))  # and it still works
    with Tagger(model, device="cpu") as tagger, pytest.raises(ValueError, match="computes on the CPU"):
        tagger.scores(Elsewhere(waves))


# ---- PCM: mixed and resampled on the device ----


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (48000, 1), (22050, 3)])
def test_pcm_gives_the_scores_of_the_reference_resampler(rng, rate, channels):
    model = small_model(rng)
    n_in = -(-4000 * rate // 16000)
    pcm = rng.uniform(-0.5, 0.5, (3, n_in, channels)).astype(np.float32)
    mono = np.stack([resample_filter.resample(clip, rate, 16000)[:4000] for clip in pcm]).astype(np.float32)
    with Tagger(model, device="cuda", max_batch=4) as tagger:
        expected = tagger.scores(mono)
        scores = tagger.scores(pcm, sample_rate=rate)
        np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
        out = np.full((3, 7), np.nan, np.float32)
        tagger.scores(Elsewhere(pcm), out=Elsewhere(out), sample_rate=rate)
        np.testing.assert_array_equal(out, scores)
        np.testing.assert_array_equal(tagger.scores(pcm[2:], sample_rate=rate)[0], scores[2])  # bit-equal alone
        np.testing.assert_array_equal(tagger.scores(mono), expected)  # and the plain way is undisturbed


def test_the_models_own_rate_is_not_resampled(rng):
    model = small_model(rng)
    waves = waves_for(model, rng, 2)
    with Tagger(model, device="cuda", max_batch=2) as tagger:
        np.testing.assert_array_equal(tagger.scores(waves, sample_rate=16000), tagger.scores(waves))


def test_pcm_of_a_wrong_length_or_device_is_named(rng):
    model = small_model(rng)
    pcm = np.zeros((1, 5000, 2), np.float32)
    with Tagger(model, device="cuda", max_batch=2) as tagger:
        with pytest.raises(ValueError, match=r"5000 samples at 44100 Hz; random takes 11025 \(4000 at 16000 Hz\)"):
            tagger.scores(pcm, sample_rate=44100)
        with pytest.raises(ValueError, match=r"expected float32 \[B, n_in\] or \[B, n_in, n_channels\]"):
            tagger.scores(pcm[0, 0], sample_rate=44100)
    with (
        Tagger(model, device="cpu") as tagger,
        pytest.raises(ValueError, match="sample_rate=44100: needs device='cuda'"),
    ):
        tagger.scores(pcm, sample_rate=44100)


def test_many_kinds_of_pcm_do_not_pile_up(rng):
    model = small_model(rng)
    with CudaEngine(model, max_batch=1) as engine:
        memory = []
        for rate in (44100, 48000, 32000, 22050, 24000, 8000, 11025):
            n_in = -(-4000 * rate // 16000)
            engine.scores(np.zeros((1, n_in), np.float32), sample_rate=rate)
            memory.append(engine.memory_bytes)
        assert len(engine._resampling) == 4
        assert max(memory[4:]) <= 2 * memory[3]
