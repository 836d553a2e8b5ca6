"""Every entry of the reference material's hard inputs through API and command line, as its MANIFEST.md expects."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.cli_runner import command, environment

from fcntag import Tagger

# Where MANIFEST.md leaves a choice, a user gets the good part tagged, with a warning.
ERROR = {
    "len_0.wav": "no audio samples",
    "nan.wav": "finite",
    "inf.wav": "finite",
    "trunc_head.mp3": "",
    "trunc_head.ogg": "",
    "trunc_head.flac": "",
    "trunc_head.opus": "",
    "hdr_ch0.wav": "",
    "hdr_ch65535.wav": "",
    "hdr_rate0.wav": "",
    "hdr_rate_4g.wav": "",
    "hdr_bits_0.wav": "",
    "text.mp3": "not",
    "html.ogg": "not",
    "zero_bytes.wav": "empty",
    "zero_bytes.mp3": "empty",
    "random.mp3": "",
    "zeros.mp3": "",
    "raw_pcm.raw": "",
    "directory.wav": "is a directory",
    "dangling_link.wav": "no such file",
}
EITHER = {"huge_float.wav", "rate_1hz.wav", "hdr_data_0.wav", "layer2.mp2", "wavpack.wv"}
WARNED = {
    "len_1.wav",
    "len_300.wav",
    "len_500ms.wav",
    "trunc_half.mp3",
    "trunc_half.ogg",
    "trunc_half.flac",
    "trunc_half.opus",
    "trunc_half.wav",
    "corrupt_mid.mp3",
    "corrupt_mid.ogg",
    "corrupt_mid.flac",
}
SAME_AS_OK_MP3 = ("big_id3_cover.mp3", "id3v1_ape_tail.mp3", "double_id3.mp3", "junk_before.mp3", "really_mp3.wav")


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hard") / "hard"
    shutil.copytree(shared / "hard", folder, ignore=shutil.ignore_patterns("MANIFEST.md", "dangling_link.wav"))
    # version control does not keep these three (see the manifest's note)
    (folder / "directory.wav").mkdir(exist_ok=True)
    (folder / "dangling_link.wav").symlink_to("nowhere.wav")
    shutil.copy(folder / "ok.flac", os.fsencode(folder) + b"/latin1_\xe9.wav")
    return folder


@pytest.fixture(scope="module")
def names(folder, shared) -> list[str]:
    names = sorted(os.listdir(folder))
    manifest = (shared / "hard" / "MANIFEST.md").read_text()
    listed = [line.split("`")[1].replace("\\xe9", "\udce9") for line in manifest.splitlines() if line.startswith("| `")]
    assert sorted(listed) == names  # an entry that nobody runs would pass unnoticed
    return names


def check(name: str, error: str | None, warnings: list[str], shown: str) -> None:
    if name in ERROR:
        assert error is not None, f"{name}: tagged"
        assert ERROR[name] in error, name
    elif name not in EITHER:
        assert error is None, f"{name}: {error}"
    if error is not None:
        assert error.startswith(f"{shown}: "), error
        assert error.count(shown) == 1
        assert "\n" not in error
        assert "regular file (possibly a pipe?)" not in error  # libsndfile's misleading guess
    if name in WARNED:
        assert warnings, name


def test_api(folder, names):
    with Tagger() as tagger:
        paths = [str(folder / name) for name in names]
        results = list(tagger.tag_many(paths))
        for name, path, result in zip(names, paths, results, strict=True):
            assert result.path == path
            check(name, result.error, list(result.warnings), f"{folder}/" + name.replace("\udce9", "\\xe9"))
            if result.error is None:
                assert np.isfinite(result.segments).all()
                assert ((result.segments >= 0) & (result.segments <= 1)).all()
        found = dict(zip(names, results, strict=True))
        for name in SAME_AS_OK_MP3:
            np.testing.assert_array_equal(found[name].segments, found["ok.mp3"].segments, err_msg=name)
        assert found["hdr_data_ffffffff.wav"].duration_s == pytest.approx(3.2)
        assert found["unknown_total.flac"].duration_s == pytest.approx(3.2)
        # one at a time gives the same
        for name in names:
            if found[name].error is None:
                np.testing.assert_array_equal(tagger.tag(folder / name).segments, found[name].segments, err_msg=name)


def test_command_line(folder, names):
    arguments = [os.fsencode(folder / name) for name in names]
    done = subprocess.run(
        [*command("tag", "-f", "jsonl"), *arguments],
        capture_output=True,
        env=environment(),
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    records = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    assert len(records) == len(names)
    messages = done.stderr.decode("utf-8").splitlines()
    assert len(set(messages)) == len(messages)  # nothing is said twice
    expected = []
    for name, record in zip(names, records, strict=True):
        shown = f"{folder}/" + name.replace("\udce9", "\\xe9")
        assert record["path"] == shown
        check(name, record["error"], record["warnings"], shown)
        expected += [f"fcntag: {shown}: {warning}" for warning in record["warnings"]]
        if record["error"] is not None:
            expected.append(f"fcntag: {record['error']}")
    assert [message.removesuffix(" (-r takes the sound files in it)") for message in messages] == expected
