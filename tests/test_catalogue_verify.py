"""Stored and embedded models are what they were made as: ``verify``, and what ``load_model`` refuses to load."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fcntag import catalogue, doctor
from fcntag.catalogue import facts, store
from fcntag.errors import ModelError
from fcntag.model.file import read_model, write_model
from fcntag.pull import pull

EMBEDDED = ("mtt-vgg", "msd-vgg", "fcn3-narrow-music21")
R1 = "choi2016-fcn5-narrow"


@pytest.mark.parametrize("name", [*EMBEDDED, "msd-vgg-as-shipped"])
def test_embedded_models_verify(name: str) -> None:
    found = catalogue.verify(name)
    assert found["sha256"] == catalogue.entry(name).model_sha256
    # of musicnn's wheel; ours has no original but the list of clips that it was trained on
    wheel = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
    assert (found["source_sha256"] == wheel) is (name != "fcn3-narrow-music21")
    assert found["embedded"] is True
    assert json.loads(json.dumps(found)) == found


@pytest.fixture
def stored(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded default in the store as if it had been pulled, so that no reference material is needed."""
    model = catalogue.load_model("mtt-vgg")
    entries = tuple(dataclasses.replace(e, embedded=False) if e.name == "mtt-vgg" else e for e in catalogue.entries())
    monkeypatch.setattr(facts, "entries", lambda: entries)
    path = home / "models" / "mtt-vgg.safetensors"
    write_model(path, model.document, model.tensors)
    path.with_suffix(".json").write_text(json.dumps({"sha256": read_model(path).sha256}))
    catalogue.verify("mtt-vgg")
    return path


def test_verify_finds_a_changed_weight(stored: Path) -> None:
    model = read_model(stored)
    bias = model.tensors["head.bias"] + np.float32(1e-3)
    write_model(stored, model.document, {**model.tensors, "head.bias": bias})
    with pytest.raises(
        ModelError, match=r"mtt-vgg\.safetensors: sha256: [0-9a-f]+; it was [0-9a-f]+ when the file was"
    ):
        catalogue.verify("mtt-vgg")


def test_verify_finds_truncation_and_a_lost_record(stored: Path) -> None:
    record = stored.with_suffix(".json")
    record.write_text("{}")
    with pytest.raises(
        ModelError, match=r"mtt-vgg\.json: no sha256 of the conversion .*run again: fcntag models pull mtt-vgg$"
    ):
        catalogue.verify("mtt-vgg")
    stored.write_bytes(stored.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"mtt-vgg\.safetensors: data: .*: truncated"):
        catalogue.verify("mtt-vgg")


def test_verify_finds_another_model_under_the_name(stored: Path) -> None:
    model = read_model(stored)
    other = dataclasses.replace(model.document, name="mtt-vgg-unverified")
    write_model(stored, other, model.tensors)
    with pytest.raises(ModelError, match=r"document\.name: 'mtt-vgg-unverified'; the catalogue says 'mtt-vgg'"):
        catalogue.verify("mtt-vgg")
    source = dataclasses.replace(model.document.source, sha256="0" * 64)
    write_model(stored, dataclasses.replace(model.document, source=source), model.tensors)
    with pytest.raises(ModelError, match=r"document\.source\.sha256: 0{64}; the catalogue says f38a4890"):
        catalogue.verify("mtt-vgg")


@pytest.mark.parametrize("change", ["weight", "record", "no record", "name", "empty"])
def test_a_stored_model_that_is_another_is_not_loaded(stored: Path, change: str) -> None:
    record = stored.with_suffix(".json")
    model = read_model(stored)
    if change == "weight":  # in the last byte: the file stays valid in every other respect
        data = bytearray(stored.read_bytes())
        data[-4] ^= 1
        stored.write_bytes(data)
        expected = r"mtt-vgg\.safetensors: sha256: [0-9a-f]{64}; it was [0-9a-f]{64} when the file was made; "
    elif change == "record":
        record.write_text(json.dumps({"sha256": "0" * 64}))
        expected = r"mtt-vgg\.safetensors: sha256: .*; it was 0{64} when the file was made; "
    elif change == "no record":
        record.unlink()
        expected = r"mtt-vgg\.json: no sha256 of the conversion .*; "
    elif change == "name":
        write_model(stored, dataclasses.replace(model.document, name="other"), model.tensors)
        record.write_text(json.dumps({"sha256": read_model(stored).sha256}))
        expected = r"mtt-vgg\.safetensors: document\.name: 'other'; the catalogue says 'mtt-vgg'; "
    else:
        stored.write_bytes(b"")
        expected = r"mtt-vgg\.safetensors: file: empty; "
    with pytest.raises(ModelError, match=expected + "run again: fcntag models pull mtt-vgg$") as caught:
        catalogue.load_model("mtt-vgg")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["msd-vgg", "msd-vgg-as-shipped"])
def test_an_embedded_model_that_is_another_is_not_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    swapped = tmp_path / "weights" / "msd-vgg.safetensors"
    swapped.write_bytes(catalogue.model_path("mtt-vgg").read_bytes())
    monkeypatch.setattr(store, "_PACKAGE", tmp_path)
    with pytest.raises(ModelError, match=r"msd-vgg\.safetensors: document\.name: 'mtt-vgg'; .*install fcntag again$"):
        catalogue.load_model(name)


def test_a_file_without_separator_is_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "renamed.bin").write_bytes(catalogue.model_path("mtt-vgg").read_bytes())
    monkeypatch.chdir(tmp_path)
    for use in (catalogue.load_model, catalogue.verify):
        with pytest.raises(ModelError, match=r"^renamed\.bin: unknown model; .*put \./ in front to name a file$"):
            use("renamed.bin")
    assert catalogue.load_model("./renamed.bin").document.name == "mtt-vgg"


def test_verify_takes_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(catalogue.model_path("mtt-vgg").read_bytes())
    expected = {**catalogue.verify("mtt-vgg"), "path": str(path), "embedded": False}
    assert catalogue.verify(path) == catalogue.verify(str(path)) == expected
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"mine\.safetensors: data: .*truncated$"):
        catalogue.verify(str(path))


def unreadable(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make ``FCNTAG_HOME`` a folder that cannot be looked into; what the message about it begins with."""
    folder = tmp_path / ("x" * 300 if kind == "name too long" else "home")
    monkeypatch.setenv("FCNTAG_HOME", str(folder))
    if kind == "permission":  # by hand, because no folder refuses root
        original = Path.stat

        def stat(self: Path, **options: bool) -> os.stat_result:
            if folder in self.parents:
                raise PermissionError(13, "Permission denied", str(self))
            return original(self, **options)

        monkeypatch.setattr(Path, "stat", stat)
    return f"{folder / 'models'}: cannot be read: "


@pytest.mark.parametrize("kind", ["name too long", "permission"])
def test_a_store_that_cannot_be_read_is_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = unreadable(kind, tmp_path, monkeypatch)
    for use in (catalogue.load_model, catalogue.model_path, catalogue.verify, pull, catalogue.is_here):
        with pytest.raises(ModelError) as caught:
            use(R1)
        assert str(caught.value).startswith(expected)
        assert "\n" not in str(caught.value)
    report = doctor.examine()
    assert [line for line in report["problems"] if line.startswith(expected)] == report["problems"]
    assert len(report["problems"]) == 1
    assert report["models"][R1] == "broken"
    assert report["models"]["mtt-vgg"].startswith("embedded, ok")
