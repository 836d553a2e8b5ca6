"""Real tracks: streamed blocks and windows against soundfile + mix + soxr of the whole file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.audio_cases import cut_windows, whole

from fcntag.audio import open_track

TRACKS = (
    "adpcm-holotz-maintitle.wav",
    "chiptune-mrrescue-rockerronni.ogg",
    "choir-wesnoth-nunc_dimittis.ogg",
    "electronic-singularity-media_threat.ogg",
    "industrial-warzone-track1.opus",
    "metal-muldjord-chaos_god.ogg",
    "orch-asc-machine_wars.mp3",
    "piano-openmsx-moo_solo.flac",
    "pop-pinkpony-to_be_happy.mp3",
    "rock-sectoid-feelings.ogg",
    "tracker-pingus-level_snow.flac",
    "world-hyperrogue-hr-savino-caribbean.ogg",
)


def test_the_list_is_complete(shared: Path):
    assert sorted(p.name for p in (shared / "music").iterdir() if p.suffix != ".md") == sorted(TRACKS)


@pytest.mark.parametrize("name", TRACKS)
def test_real_tracks_are_bit_identical_to_soundfile_and_soxr(shared: Path, name: str, capfd):
    path = shared / "music" / name
    for rate in (12000, 16000):
        full = whole(path, rate)
        with open_track(path) as track:
            np.testing.assert_array_equal(np.concatenate(list(track.blocks(rate))), full)
            assert track.length(rate) == len(full)
            assert track.warnings == []
        middle = (len(full) - 29 * rate) // 2
        spread = [k * (len(full) - 3 * rate) // 4 for k in range(5)]
        for starts, n_samples in (([middle], 29 * rate), (spread, 3 * rate), ([len(full) - rate], 2 * rate)):
            with open_track(path) as track:
                windows = list(track.windows(rate, starts, n_samples))
            for window, expected in zip(windows, cut_windows(full, starts, n_samples), strict=True):
                np.testing.assert_array_equal(window, expected)
    assert capfd.readouterr() == ("", "")
