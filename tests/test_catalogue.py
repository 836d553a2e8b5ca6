"""The catalogue: what it knows, what it loads, and how pulled models come into the store and stay intact there."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.model_fixtures import ORIGINAL_FILES

from fcntag import catalogue
from fcntag.catalogue import facts
from fcntag.catalogue.facts import Entry, Origin
from fcntag.errors import ModelError
from fcntag.model import paper
from fcntag.pull import pull

EMBEDDED = ("mtt-vgg", "msd-vgg")
OURS = "fcn3-narrow-music21"
R1 = "choi2016-fcn5-narrow"


def names(embedded: bool | None = None) -> list[str]:
    return [e.name for e in catalogue.entries() if embedded in (None, e.embedded)]


# ---- what is known ----


def test_names() -> None:
    assert names() == [
        "mtt-vgg",
        "msd-vgg",
        "msd-vgg-as-shipped",
        "fcn3-narrow-music21",
        "choi2016-fcn5-narrow",
        "choi2016-fcn5-narrow-v2",
        "choi2017-compact",
        "choi2017-compact-keras2",
        "won2020-fcn-mtat",
        "won2020-fcn-msd",
        "won2020-fcn-jamendo",
    ]
    assert names()[0] == catalogue.DEFAULT
    assert names(embedded=True) == ["mtt-vgg", "msd-vgg", "msd-vgg-as-shipped", OURS]


def test_every_entry_is_complete() -> None:
    for item in catalogue.entries():
        assert len(item.tags) == len(set(item.tags)) == (28 if item.name == OURS else 50), item.name
        assert item.description, item.name
        assert item.licence, item.name
        assert item.training_data, item.name
        assert item.licence_notice or "none stated" in item.licence, item.name
        for origin in item.origins:
            # A package URL where the original is a package: the user's own index is asked, not one host.
            assert origin.url.startswith("pkg:pypi/" if item.embedded else "https://"), item.name
            # All but Jamendo's, whose digest is on record only in part.
            assert len(origin.sha256) == (16 if item.name == "won2020-fcn-jamendo" else 64), item.name
        for metric in item.metrics:
            assert metric.by, item.name


def test_won_jamendo_tags_are_sorted_as_the_original_binarizer_left_them() -> None:
    tags = catalogue.entry("won2020-fcn-jamendo").tags
    assert list(tags) == sorted(tags)
    assert tags[0] == "genre---alternative"
    assert tags[-1] == "mood/theme---relaxing"


def test_an_origin_is_told_by_both_digests() -> None:
    data = b"weights"
    sha256, blob = hashlib.sha256(data).hexdigest(), hashlib.sha1(b"blob 7\0weights").hexdigest()
    whole = Origin(url="", file="", sha256=sha256, git_blob=blob)
    parts = Origin(url="", file="", sha256=sha256[:16], git_blob=blob[:12])
    assert whole.matches(data)
    assert parts.matches(data)
    assert not whole.matches(b"other")
    assert not dataclasses.replace(parts, sha256="0" * 16).matches(data)
    assert not dataclasses.replace(parts, git_blob="0" * 12).matches(data)


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FCNTAG_HOME", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert catalogue.home() == tmp_path / "a"
    monkeypatch.delenv("FCNTAG_HOME")
    assert catalogue.home() == tmp_path / "b" / "fcntag"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalogue.home() == tmp_path / ".cache" / "fcntag"


def test_catalogue_and_loading_import_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys, fcntag.catalogue as c; c.entries(); early = set(sys.modules); c.load_model('mtt-vgg');"
        "heavy = {'torch', 'h5py', 'pooch', 'requests', 'numba', 'fcntag.convert', 'soundfile'};"
        "assert 'numpy' not in early, 'numpy'; assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "FCNTAG_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


# ---- loading ----


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_load_and_say_what_the_catalogue_says(name: str, home: Path) -> None:
    item, model = catalogue.entry(name), catalogue.load_model(name)
    document = model.document
    assert document.name == name
    assert document.tags == item.tags
    assert document.licence == item.licence == "ISC"
    assert "Permission to use, copy, modify" in document.licence_notice
    assert document.licence_notice == item.licence_notice
    assert document.metrics == item.metrics
    assert document.notes[: len(item.notes)] == item.notes
    assert document.source.url == item.url
    assert model.sha256 == item.model_sha256
    assert not home.exists()


def test_our_own_weights_say_what_they_are(home: Path) -> None:
    item, model = catalogue.entry(OURS), catalogue.load_model(OURS)
    document = model.document
    assert document.name == OURS
    assert document.tags == item.tags
    assert (document.licence, document.licence_notice) == (item.licence, item.licence_notice)
    assert document.metrics == item.metrics
    assert document.notes[: len(item.notes)] == item.notes
    assert any("seed 0" in note for note in document.notes)
    assert item.url == item.sha256 == document.source.url == ""  # there is no original
    assert not document.random_weights
    assert document.blocks == paper.document("fcn3-narrow").blocks
    assert not home.exists()


def test_as_shipped_is_msd_vgg_with_the_pools_of_mtt_vgg() -> None:
    shipped, base, mtt = (catalogue.load_model(name) for name in ("msd-vgg-as-shipped", "msd-vgg", "mtt-vgg"))
    assert shipped.document.name == "msd-vgg-as-shipped"
    assert [b.pool for b in shipped.document.blocks] == [b.pool for b in mtt.document.blocks]
    assert [b.pool for b in shipped.document.blocks] != [b.pool for b in base.document.blocks]
    assert shipped.sha256 == base.sha256
    assert shipped.document.metrics == ()
    assert shipped.document.notes == (*catalogue.entry("msd-vgg-as-shipped").notes,)
    for name, array in base.tensors.items():
        np.testing.assert_array_equal(shipped.tensors[name], array)


def test_a_path_loads_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(catalogue.model_path("mtt-vgg").read_bytes())
    assert catalogue.load_model(path).document.name == "mtt-vgg"
    assert catalogue.load_model(str(path)).path == str(path)
    monkeypatch.chdir(tmp_path)
    assert catalogue.load_model("mine.safetensors").document.name == "mtt-vgg"
    assert catalogue.load_model(Path("mine.safetensors")).document.name == "mtt-vgg"
    with pytest.raises(ModelError, match=r"^other\.safetensors: no such file$"):
        catalogue.load_model("other.safetensors")
    with pytest.raises(ModelError, match=r"^\./mtt-vgg: no such file$"):
        catalogue.load_model("./mtt-vgg")


def test_unknown_and_unpulled_names_say_what_to_do(home: Path) -> None:
    with pytest.raises(
        ModelError, match=r"^mtt-vg: unknown model; known: mtt-vgg, msd-vgg, msd-vgg-as-shipped, fcn3-narrow"
    ):
        catalogue.load_model("mtt-vg")
    for use in (catalogue.load_model, catalogue.model_path, catalogue.verify):
        with pytest.raises(ModelError, match=rf"^{R1}: not pulled yet .*fcntag models pull {R1}, or .* --from FILE"):
            use(R1)
    assert not home.exists()


# ---- pulling ----


def test_embedded_models_need_no_pull(home: Path) -> None:
    assert pull("mtt-vgg") == catalogue.model_path("mtt-vgg")
    assert pull("msd-vgg-as-shipped") == catalogue.model_path("msd-vgg")
    assert not home.exists()


def test_offline_is_refused_before_anything_happens(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCNTAG_OFFLINE", "1")
    with pytest.raises(ModelError, match=rf"^{R1}: FCNTAG_OFFLINE is set: not downloading https://raw.*--from FILE"):
        pull(R1)
    assert not home.exists()


def test_a_file_of_another_hash_is_refused(home: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "weights.hdf5"
    wrong.write_bytes(b"\x89HDF\r\n\x1a\n")
    digest = hashlib.sha256(wrong.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=rf"weights\.hdf5: sha256 is {digest}; {R1} is made from 52a93ad5"):
        pull(R1, source=wrong)
    with pytest.raises(ModelError, match=r"absent: no such file"):
        pull(R1, source=tmp_path / "absent")
    with pytest.raises(ModelError, match=r": is not a regular file"):
        pull(R1, source=tmp_path)
    assert not home.exists()


@pytest.mark.parametrize("name", ORIGINAL_FILES)
def test_pull_from_the_original_file(shared: Path, home: Path, name: str) -> None:
    path = pull(name, source=shared / "weights" / ORIGINAL_FILES[name])
    assert path == home / "models" / f"{name}.safetensors" == catalogue.model_path(name)
    item, model = catalogue.entry(name), catalogue.load_model(name)
    assert model.document.name == name
    assert model.document.tags == item.tags
    assert model.document.source.sha256 == item.sha256
    assert model.document.source.url == item.url
    found = catalogue.verify(name)
    assert found["sha256"] == model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["parameters"] == sum(a.size for a in model.tensors.values())
    # Stored and intact: nothing is downloaded, and the network is not asked for.
    assert pull(name) == path


def test_rotated_release_is_accepted_too(shared: Path, home: Path) -> None:
    pull(R1, source=shared / "weights" / "choi2016" / "R1tf_cnn_weights_tensorflow.hdf5")
    assert catalogue.verify(R1)["source_sha256"] == catalogue.entry(R1).origins[1].sha256


def test_the_original_of_another_model_is_refused(shared: Path, home: Path) -> None:
    with pytest.raises(ModelError, match="choi2016-fcn5-narrow-v2 is made from 36184d9f"):
        pull("choi2016-fcn5-narrow-v2", source=shared / "weights" / ORIGINAL_FILES[R1])


def test_pulls_at_once_do_not_disturb_one_another(shared: Path, home: Path) -> None:
    source = shared / "weights" / ORIGINAL_FILES["choi2017-compact"]
    pull_compact = functools.partial(pull, "choi2017-compact", source)
    pull_compact()
    failures = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                catalogue.verify("choi2017-compact")
            except ModelError as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        paths = [future.result() for future in [pool.submit(pull_compact) for _ in range(8)]]
    stop.set()
    reader.join()
    assert not failures
    assert len(set(paths)) == 1
    assert sorted(p.name for p in paths[0].parent.iterdir()) == [
        "choi2017-compact.json",
        "choi2017-compact.safetensors",
    ]


# ---- downloading, from a server of the test's own ----


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(URL, folder) of a web server on this machine."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def served(server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """The catalogue with every URL on the server; where the file of ``R1`` has to lie there."""
    pytest.importorskip("pooch")
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.delenv("FCNTAG_OFFLINE", raising=False)
    url, folder = server

    def move(item: Entry) -> Entry:
        origins = tuple(dataclasses.replace(o, url=f"{url}/{Path(o.url).name}") for o in item.origins)
        return dataclasses.replace(item, origins=origins)

    moved = tuple(move(item) for item in catalogue.entries())
    monkeypatch.setattr(facts, "entries", lambda: moved)
    return folder / Path(catalogue.entry(R1).url).name


def test_download_checks_the_hash(served: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    served.write_bytes(b"something else" * 1000)
    seen: list[tuple[int, int | None]] = []
    with pytest.raises(ModelError, match=rf"^http://127.*hdf5: sha256 is [0-9a-f]+; {R1} is made from"):
        pull(R1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (14000, 14000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not home.exists()
    assert capfd.readouterr().err == ""


def test_download_errors_are_one_line(served: Path, home: Path) -> None:
    with pytest.raises(ModelError, match=rf"^{R1}: download failed: http://127.*404.*--from FILE$") as caught:
        pull(R1)
    assert "\n" not in str(caught.value)
    assert not home.exists()


def test_download_without_pooch_names_the_extra(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ModelError, match=r'needs pooch; install it with: pip install "fcntag\[convert\]"'):
        pull(R1)


def test_download_converts_and_stores(served: Path, shared: Path, home: Path) -> None:
    served.write_bytes((shared / "weights" / ORIGINAL_FILES[R1]).read_bytes())
    seen: list[tuple[int, int | None]] = []
    path = pull(R1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (served.stat().st_size, served.stat().st_size)
    assert catalogue.verify(R1)["path"] == str(path)
    served.unlink()
    assert pull(R1) == path  # intact: not downloaded again
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="download failed"):  # damaged: it is
        pull(R1)
