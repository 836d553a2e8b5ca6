"""From a dataset to a report: figures by scikit-learn, tags and clips left out, order, the cache, computed scores."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from support.eval_sets import random_set, write_clips

from fcntag import DatasetError, FcntagError, Tagger
from fcntag.eval import Dataset, Scores, align, evaluate, plain, read_scores, score
from fcntag.eval import cache as cache_module

pytestmark = pytest.mark.usefixtures("home")


def dataset_of(labels, tags=None, paths=None) -> Dataset:
    n, k = labels.shape
    paths = paths or tuple(f"{i:04}.wav" for i in range(n))
    return Dataset("csv", tuple(paths), tuple(tags or (f"t{i}" for i in range(k))), labels)


def scores_of(values, tags) -> Scores:
    return Scores(tuple(tags), values, np.ones(len(values), bool))


# ---- alignment ----


def test_tags_match_by_name():
    labels = np.eye(5, dtype=bool)
    dataset = dataset_of(labels, ["Rock", "hip hop", "no vocal", "guitar", "zither"])
    truth = align(dataset, ("guitar", "rock", "Hip-Hop", "no vocals", "piano"))
    assert truth.tags == ("rock", "Hip-Hop", "guitar")
    assert truth.sources == (("Rock",), ("hip hop",), ("guitar",))
    assert truth.columns.tolist() == [1, 2, 0]
    assert truth.labels.argmax(axis=0).tolist() == [0, 1, 3]
    assert truth.model_only == ("no vocals", "piano")
    assert truth.dataset_only == ("no vocal", "zither")


def test_tags_that_read_alike_are_not_guessed():
    dataset = dataset_of(np.eye(3, dtype=bool), ["ROCK", "Rock", "jazz"])
    assert align(dataset, ("rock", "jazz")).tags == ("jazz",)
    assert align(dataset, ("Rock", "jazz")).sources == (("Rock",), ("jazz",))
    assert align(dataset_of(np.eye(2, dtype=bool), ["Rock", "jazz"]), ("rock", "ROCK", "jazz")).tags == ("jazz",)


def test_a_map_merges_and_leaves_out():
    dataset = dataset_of(np.eye(4, dtype=bool), ["vocal", "singing", "rock", "jazz"])
    truth = align(dataset, ("voice", "rock", "jazz"), {"vocal": ("voice",), "singing": ("voice",), "jazz": ()})
    assert truth.tags == ("voice", "rock")
    assert truth.labels[:, 0].tolist() == [True, True, False, False]
    assert truth.model_only == ("jazz",)
    assert truth.dataset_only == ("jazz",)
    for merges, message in (({"x": ("rock",)}, "'x' is no tag of"), ({"vocal": ("x",)}, "'x' .* no tag of the model")):
        with pytest.raises(DatasetError, match=message):
            align(dataset, ("voice", "rock"), merges)


def test_no_common_tag_and_untagged_clips():
    dataset = dataset_of(np.array([[1, 0], [0, 0], [0, 1]], bool), ["a", "b"])
    with pytest.raises(DatasetError, match="none of its tags"):
        align(dataset, ("x",))
    truth = align(dataset, ("a",), skip_untagged=True)
    assert truth.dataset.paths == ("0000.wav",)
    assert truth.untagged == 2


# ---- figures ----


def test_report_is_scikit_learns(rng):
    labels, values = random_set(rng, 300, 5, 2)
    dataset = dataset_of(labels)
    report = evaluate(align(dataset, dataset.tags), scores_of(values, dataset.tags), resamples=50)
    assert report.roc_auc.value == pytest.approx(roc_auc_score(labels, values, average="macro"), abs=1e-12)
    assert report.pr_auc.value == pytest.approx(average_precision_score(labels, values, average="macro"), abs=1e-12)
    for k, tag in enumerate(report.tags):
        assert tag.label == f"t{k}"
        assert tag.positives == labels[:, k].sum()
        assert tag.roc_auc.value == pytest.approx(roc_auc_score(labels[:, k], values[:, k]), abs=1e-12)
        assert tag.roc_auc.low < tag.roc_auc.value < tag.roc_auc.high
    assert report.roc_auc.low < report.roc_auc.value < report.roc_auc.high


def test_tags_of_one_class_are_left_out_of_the_macro(rng):
    labels, values = random_set(rng, 100, 4)
    labels[:, 1], labels[:, 3] = False, True
    dataset = dataset_of(labels)
    report = evaluate(align(dataset, dataset.tags), scores_of(values, dataset.tags), resamples=0)
    assert report.left_out == (("t1", 0), ("t3", 100))
    assert [tag.label for tag in report.tags] == ["t0", "t2"]
    expected = np.mean([roc_auc_score(labels[:, k], values[:, k]) for k in (0, 2)])
    assert report.roc_auc.value == pytest.approx(expected, abs=1e-12)
    assert report.roc_auc.low is None
    text = "\n".join(report.lines())
    assert "left out: t1: no clip has it" in text
    assert "left out: t3: every clip has it" in text
    labels[:] = True
    with pytest.raises(DatasetError, match="none of 4 tags"):
        evaluate(align(dataset, dataset.tags), scores_of(values, dataset.tags))


def test_order_of_clips_and_tags_changes_no_figure(rng):
    labels, values = random_set(rng, 200, 6, 2)
    dataset = dataset_of(labels)
    first = evaluate(align(dataset, dataset.tags), scores_of(values, dataset.tags), resamples=60)
    rows, columns = rng.permutation(200), rng.permutation(6)
    model_tags = tuple(dataset.tags[k] for k in columns)
    shuffled = dataset.keep(rows)
    second = evaluate(align(shuffled, model_tags), scores_of(values[rows][:, columns], model_tags), resamples=60)
    assert (first.roc_auc, first.pr_auc) == (second.roc_auc, second.pr_auc)
    assert sorted(first.tags, key=lambda t: t.label) == sorted(second.tags, key=lambda t: t.label)


def test_nan_scores_are_refused(rng):
    labels, values = random_set(rng, 30, 2)
    values[4, 1] = np.nan
    dataset = dataset_of(labels)
    with pytest.raises(ValueError, match="not finite"):
        evaluate(align(dataset, dataset.tags), scores_of(values, dataset.tags))


def test_clips_without_scores_are_left_out(rng):
    labels, values = random_set(rng, 60, 2)
    dataset = dataset_of(labels)
    scores = scores_of(values, dataset.tags)
    scores.known[10:20], values[10:20] = False, np.nan
    scores.missing = list(dataset.paths[10:20])
    report = evaluate(align(dataset, dataset.tags), scores, resamples=0)
    rest = np.delete(np.arange(60), range(10, 20))
    assert report.roc_auc.value == pytest.approx(roc_auc_score(labels[rest], values[rest], average="macro"), abs=1e-12)
    scores.known[:] = False
    with pytest.raises(FcntagError, match="no clip has scores"):
        evaluate(align(dataset, dataset.tags), scores)


# ---- real sound, the cache ----


@pytest.fixture(scope="module")
def tagger():
    with Tagger() as tagger:
        yield tagger


@pytest.fixture
def sounds(tmp_path) -> Dataset:
    names = ["a/one.wav", "a/zwei – Lärm.wav", "b c/three.wav", "d.wav", "e.wav", "f.wav"]
    write_clips(tmp_path / "audio", names)
    rows = [f"{name},{'guitar' if i % 2 else 'rock'}" for i, name in enumerate(names)]
    rows += ["gone.wav,rock", "broken.mp3,guitar", "folder.wav,guitar"]
    (tmp_path / "audio" / "broken.mp3").write_text("not music")
    (tmp_path / "audio" / "folder.wav").mkdir()
    (tmp_path / "set.csv").write_text("\n".join(rows), encoding="utf-8")
    return plain(str(tmp_path / "set.csv"), audio=str(tmp_path / "audio"))


def test_scores_are_the_taggers(sounds, tagger):
    scores = score(tagger, sounds)
    assert scores.known.tolist() == [True] * 6 + [False] * 3
    for i in range(6):
        np.testing.assert_array_equal(scores.values[i], tagger.tag(sounds.file(i)).scores)
    assert scores.missing == [f"{sounds.audio}/gone.wav"]
    assert list(scores.failed) == ["broken.mp3", "folder.wav"]
    assert "broken.mp3" in scores.failed["broken.mp3"]
    report = evaluate(align(sounds, tagger.tags), scores, resamples=10)
    assert report.clips == 6
    assert {tag.label for tag in report.tags} == {"rock", "guitar"}


class Counting:
    """A Tagger that counts what it is asked to tag."""

    def __init__(self, tagger):
        self._tagger, self.asked = tagger, []

    def __getattr__(self, name):
        return getattr(self._tagger, name)

    def tag_many(self, sources, **options):
        def counted():
            for source in sources:
                self.asked.append(source)
                yield source

        return self._tagger.tag_many(counted(), **options)


def test_the_cache_spares_what_it_holds(sounds, tagger, tmp_path):
    cold = score(tagger, sounds, cache=str(tmp_path / "cache"))
    assert cold.cached == 0
    counting = Counting(tagger)
    warm = score(counting, sounds, cache=str(tmp_path / "cache"))
    assert warm.cached == 6
    assert [Path(file).name for file in counting.asked] == ["broken.mp3", "folder.wav"]  # they may be mended
    np.testing.assert_array_equal(cold.values, warm.values)
    assert warm.missing == cold.missing
    assert warm.failed == cold.failed


def test_a_changed_file_is_tagged_again(sounds, tagger, tmp_path):
    score(tagger, sounds, cache=str(tmp_path / "cache"))
    file = sounds.file(3)
    data = Path(sounds.file(0)).read_bytes()
    Path(file).write_bytes(data)
    os.utime(file, ns=(1, time.time_ns()))
    counting = Counting(tagger)
    scores = score(counting, sounds, cache=str(tmp_path / "cache"))
    assert file in counting.asked
    assert scores.cached == 5
    np.testing.assert_array_equal(scores.values[3], scores.values[0])
    os.remove(file)
    assert f"{sounds.audio}/d.wav" in score(tagger, sounds, cache=str(tmp_path / "cache")).missing


@pytest.mark.parametrize(
    "change", ["model", "sha256", "segments", "hop", "no_reduce", "device", "precision", "version", "isa"]
)
def test_scores_of_anything_else_are_not_used(sounds, tagger, tmp_path, change, monkeypatch):
    """The stale scores lie beside the new ones, one line says so, and both are there afterwards."""
    folder, notes = str(tmp_path / "cache"), []
    score(tagger, sounds, cache=folder)
    other, options = tagger, {}
    if change == "model":
        other = Tagger("msd-vgg")
    elif change == "no_reduce":
        other = Tagger(reduce=False)
    elif change in ("segments", "hop"):
        options = {"segments": "center"} if change == "segments" else {"hop": 1.0}
    else:
        original = cache_module.binding_of

        def changed(*arguments):
            binding = original(*arguments)
            (binding["model"] if change == "sha256" else binding if change == "isa" else binding["engine"])[change] = (
                "x"
            )
            return binding

        monkeypatch.setattr("fcntag.eval.scoring.binding_of", changed)
    scores = score(other, sounds, cache=folder, note=notes.append, **options)
    assert scores.cached == 0
    assert len(notes) == 1
    assert notes[0].startswith(folder)
    assert "not used" in notes[0]
    assert score(other, sounds, cache=folder, **options).cached == 6
    monkeypatch.undo()
    assert score(tagger, sounds, cache=folder).cached == 6


def test_damaged_and_foreign_parts_are_named_and_not_used(sounds, tagger, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    folder = tmp_path / "cache"
    cold = score(tagger, sounds, cache=str(folder))
    (part,) = folder.glob("*/*.parquet")
    whole = part.read_bytes()
    table = parquet.read_table(part)
    nan = pa.FixedSizeListArray.from_arrays(pa.array([float("nan")] * 300, pa.float32()), 50)
    broken = {
        "torn": whole[: len(whole) // 2],
        "foreign": b"PAR1 nothing of the kind",
        "empty": b"",
    }
    for name, data in broken.items():
        part.write_bytes(data)
        notes: list[str] = []
        scores = score(tagger, sounds, cache=str(folder), note=notes.append)
        assert scores.cached == 0, name
        assert str(part) in notes[0], name
        assert "not used" in notes[0], name
        np.testing.assert_array_equal(scores.values, cold.values)
        for other in folder.glob("*/*.parquet"):
            if other != part:
                other.unlink()
    metadata = json.loads(table.schema.metadata[b"fcntag"])
    metadata["model"]["sha256"] = "0" * 64
    for changed in (
        table.set_column(3, table.schema.field(3), nan),
        table.replace_schema_metadata({"fcntag": json.dumps(metadata)}),
        table.replace_schema_metadata({}),
        table.drop_columns(["size"]),
    ):
        parquet.write_table(changed, part)
        notes = []
        assert score(tagger, sounds, cache=str(folder), note=notes.append).cached == 0
        assert str(part) in notes[0]
        for other in folder.glob("*/*.parquet"):
            if other != part:
                other.unlink()


def test_many_parts_become_one(sounds, tagger, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "PART_ROWS", 1)
    monkeypatch.setattr(cache_module, "MANY_PARTS", 4)
    cold = score(tagger, sounds, cache=str(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").glob("*/*.parquet"))) == 1
    warm = score(tagger, sounds, cache=str(tmp_path / "cache"))
    assert warm.cached == 6
    np.testing.assert_array_equal(cold.values, warm.values)


def test_two_runs_may_share_a_cache(sounds, tagger, tmp_path):
    def opened():
        binding = cache_module.binding_of(tagger, None, None)
        return cache_module.ScoreCache(str(tmp_path / "cache"), binding, tagger.tags, pytest.fail)

    with opened() as one, opened() as two:
        for store, i in ((one, 0), (two, 1), (one, 2), (two, 2)):
            store.put(sounds.file(i), os.stat(sounds.file(i)), np.full(50, i / 10, np.float32))
    with opened() as both:
        assert [both.get(sounds.file(i))[0] for i in range(3)] == [np.float32(i / 10) for i in range(3)]


def test_what_was_scored_before_an_error_is_kept(sounds, tagger, tmp_path):
    def stop(result):
        if result is not None and result.path.endswith("three.wav"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(tagger, sounds, cache=str(tmp_path / "cache"), on_clip=stop)
    assert score(tagger, sounds, cache=str(tmp_path / "cache")).cached == 3


# ---- scores that are there already ----


def test_npy_by_index_and_by_order(rng, tmp_path):
    labels, values = random_set(rng, 20, 3)
    dataset = dataset_of(labels)
    np.save(tmp_path / "s.npy", values)
    by_order = read_scores(str(tmp_path / "s.npy"), dataset.tags).of(dataset)
    np.testing.assert_array_equal(by_order.values, values)
    rows = rng.permutation(20)
    np.save(tmp_path / "i.npy", values[rows])
    index = {"paths": [f"/some/where/{dataset.paths[i]}" for i in rows], "labels": list(dataset.tags)}
    (tmp_path / "i.npy.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(read_scores(str(tmp_path / "i.npy")).of(dataset).values, values)
    with pytest.raises(DatasetError, match=r"s\.npy: no .* names the columns"):
        read_scores(str(tmp_path / "s.npy"))
    with pytest.raises(DatasetError, match="20 rows; the dataset has 5 clips"):
        read_scores(str(tmp_path / "s.npy"), dataset.tags).of(dataset.keep(range(5)))


def test_paths_end_in_the_clips_path():
    from fcntag.eval import ScoreTable

    dataset = dataset_of(np.eye(2, dtype=bool), ["a", "b"], ["f/x.mp3", "x.mp3"])
    table = ScoreTable("s", ("a", "b"), ["/mtt/f/x.mp3", "/mtt/g/x.mp3"], np.array([[0.1, 0.2], [0.3, 0.4]]))
    np.testing.assert_array_equal(table.of(dataset).values, table.values)
    twice = ScoreTable("s", ("a", "b"), ["1/x.mp3", "2/x.mp3"], np.array([[0.1, 0.2], [0.3, 0.4]]))
    with pytest.raises(DatasetError, match=r"'x\.mp3' is there twice, with different scores"):
        twice.of(dataset)
    with pytest.raises(DatasetError, match="no scores of a clip"):
        ScoreTable("s", ("a", "b"), ["y.mp3"], np.zeros((1, 2))).of(dataset)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.csv", "path,a,b\nx,0.1,nan\n", "'b' in 'x' is nan"),
        ("s.csv", "path,a,b\nx,0.1\n", "line 2: 2 fields; 3 expected"),
        ("s.csv", "path,a,b\nx,0.1,loud\n", "line 2: 'loud' is not a score"),
        ("s.csv", "path,label,score,rank\nx,a,0.5,1\nx,b,0.4,2\ny,a,0.3,1\n", "'y' has 1 of 2 tags; .*-n 0"),
        ("s.csv", "a,b\n1,2\n", "the first line must be"),
        ("s.jsonl", "[]\n", "not a record of fcntag tag"),
        ("s.jsonl", "{\n", "not a record of fcntag tag"),
        ("s.json", "{", "not a record of fcntag tag"),
        ("s.parquet", "PAR1", "s.parquet"),
        ("s.txt", "", "scores are read from"),
    ],
)
def test_bad_score_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=message) as error:
        read_scores(str(tmp_path / name))
    assert "\n" not in str(error.value)
