"""The datasets' readers, on files of the published forms: splits, lists, templates, repeated and odd rows."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from scipy import sparse
from support.eval_sets import write_mtt

from fcntag import DatasetError
from fcntag.eval import jamendo, magnatagatune, msd, plain

HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"


@pytest.fixture
def mtt(tmp_path):
    """Two clips a folder, of which the first is rock in even folders, and one with a space and an accent."""
    clips = {f"{folder}/clip-{i}.mp3": ["rock"] if i == 0 and k % 2 == 0 else ["guitar"] if i else []
             for k, folder in enumerate("0123456789abcdef") for i in (0, 1)}  # fmt: skip
    clips["d/ein Stück – live.mp3"] = ["rock", "guitar"]
    write_mtt(tmp_path / "annotations_final.csv", clips)
    return str(tmp_path / "annotations_final.csv")


# ---- MagnaTagATune ----


@pytest.mark.parametrize(
    ("split", "folders"),
    [("train", "0123456789ab"), ("validation", "c"), ("test", "def"), ("all", "0123456789abcdef")],
)
def test_mtt_splits_by_folder(mtt, split, folders):
    dataset = magnatagatune(mtt, split=split)
    assert sorted({path[0] for path in dataset.paths}) == list(folders)
    assert len(dataset.paths) == 2 * len(folders) + ("d" in folders)
    for path, labels in zip(dataset.paths, dataset.labels, strict=True):
        has = {tag for tag, label in zip(dataset.tags, labels, strict=True) if label}
        if "Stück" in path:
            assert has == {"rock", "guitar"}
        elif path.endswith("-1.mp3"):
            assert has == {"guitar"}
        else:
            assert has == ({"rock"} if int(path[0], 16) % 2 == 0 else set())


def test_mtt_top_tags_are_those_of_the_whole_file(tmp_path):
    clips = {f"0/{i}.mp3": ["often"] for i in range(5)} | {"f/a.mp3": ["seldom"], "f/b.mp3": ["seldom", "never"]}
    write_mtt(tmp_path / "a.csv", clips, ["never", "seldom", "often"])
    assert magnatagatune(str(tmp_path / "a.csv"), split="test", top=2).tags == ("seldom", "often")
    assert magnatagatune(str(tmp_path / "a.csv"), split="test").tags == ("never", "seldom", "often")


def test_mtt_lists_as_they_circulate(mtt, tmp_path):
    wanted = ["f/clip-0.mp3", "1/clip-1.mp3", "d/ein Stück – live.mp3"]
    won = np.array([f"{index}\t{path}" for index, path in zip((3, 9, 14), wanted, strict=True)])  # index\tpath
    np.save(tmp_path / "test.npy", won)
    (tmp_path / "test.tsv").write_text("path\n" + "\n".join(wanted) + "\n", encoding="utf-8")
    (tmp_path / "wav.txt").write_text("\n".join(name[:-3] + "wav" for name in wanted), encoding="utf-8")
    # clip_id\t[labels], as musicnn's: write_mtt numbers the clips from 2
    order = list(magnatagatune(mtt, split="all").paths)
    ids = [order.index(name) + 2 for name in wanted]
    (tmp_path / "gt.tsv").write_text("".join(f"{clip}\t[0, 1]\n" for clip in ids))
    for name in ("test.npy", "test.tsv", "wav.txt", "gt.tsv"):
        dataset = magnatagatune(mtt, clips=str(tmp_path / name))
        assert list(dataset.paths) == wanted, name
        assert dataset.notes == ()


def test_list_with_unknown_and_repeated_clips(mtt, tmp_path):
    (tmp_path / "list.txt").write_text("f/clip-0.mp3\n./f/clip-0.mp3\nf/gone.mp3\n")
    dataset = magnatagatune(mtt, clips=str(tmp_path / "list.txt"))
    assert dataset.paths == ("f/clip-0.mp3",)
    assert "1 line ('f/gone.mp3')" in dataset.notes[0]
    (tmp_path / "list.txt").write_text("other.mp3\n")
    with pytest.raises(DatasetError, match=r"list\.txt: names no clip of .*annotations_final\.csv.*'other\.mp3'"):
        magnatagatune(mtt, clips=str(tmp_path / "list.txt"))


def test_pickles_are_never_loaded(mtt, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    (tmp_path / "list.cP").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "list.npy", np.array([Trap()], object), allow_pickle=True)
    for name in ("list.cP", "list.npy"):
        with pytest.raises(DatasetError, match=name):
            magnatagatune(mtt, clips=str(tmp_path / name))
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be clip_id"),
        ("path,rock\na.mp3,1\n", "the first line must be clip_id"),
        ("clip_id\trock\tmp3_path\n2\t7\tf/a.mp3\n", "line 2: '7' is neither 0 nor 1"),
        ("clip_id\trock\tmp3_path\n2\t1\n", "line 2: 2 fields; 3 expected"),
        ("clip_id\trock\tmp3_path\n", "has no clips"),
        ("clip_id\trock\trock\tmp3_path\n2\t1\t1\tf/a.mp3\n", "tag 'rock' is there twice"),
        ("clip_id\trock\tmp3_path\n2\t1\tf/a.mp3\n3\t0\tf/a.mp3\n", "'f/a.mp3' is there twice, with different tags"),
        ("clip_id\trock\tmp3_path\n2\t1\t0/a.mp3\n", "no clip in the folders d, e, f of split 'test'"),
    ],
)
def test_mtt_errors_name_file_line_and_value(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message) as error:
        magnatagatune(str(path))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.csv: No such file"):
        magnatagatune(str(tmp_path / "gone.csv"))
    (tmp_path / "zeros.csv").write_bytes(b"clip_id\0\0\0\n")
    with pytest.raises(DatasetError, match=r"zeros\.csv"):
        plain(str(tmp_path / "zeros.csv"))


def test_a_repeated_row_counts_once(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("clip_id\trock\tmp3_path\n2\t1\tf/a.mp3\n3\t1\tf/a.mp3\n4\t0\tf/b.mp3\n")
    dataset = magnatagatune(str(path))
    assert dataset.paths == ("f/a.mp3", "f/b.mp3")
    assert "1 clip ('f/a.mp3') repeated, counted once" in dataset.notes[0]


# ---- MTG-Jamendo ----


def test_jamendo(tmp_path):
    (tmp_path / "t.tsv").write_text(
        HEADER
        + "track_0000215\tartist_000014\talbum_000031\t15/215.mp3\t151.4\tgenre---metal\n"
        + "track_0002634\tartist_000379\talbum_000412\t34/2634.mp3\t62.4\tgenre---folk\tmood/theme---happy\n"
        + "track_0000948\tartist_000379\talbum_000412\t48/948.mp3\t62.4\n"
    )
    (tmp_path / "48").mkdir()
    (tmp_path / "48" / "948.low.mp3").touch()
    dataset = jamendo(str(tmp_path / "t.tsv"), audio=str(tmp_path))
    assert dataset.tags == ("genre---folk", "genre---metal", "mood/theme---happy")
    assert dataset.labels.tolist() == [[False, True, False], [True, False, True], [False] * 3]
    assert dataset.file(2) == str(tmp_path / "48" / "948.low.mp3")
    assert dataset.file(0) == str(tmp_path / "15" / "215.mp3")  # what an error line should name
    (tmp_path / "list.txt").write_text("track_0002634\n15/215.mp3\n")
    assert jamendo(str(tmp_path / "t.tsv"), clips=str(tmp_path / "list.txt")).paths == ("34/2634.mp3", "15/215.mp3")


@pytest.mark.parametrize("parts", [(), ("split-0",), ("splits", "split-0")])
def test_jamendo_finds_the_split_in_a_folder(tmp_path, parts):
    folder = tmp_path.joinpath("data", *parts)
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        row = f"track_0000001\ta\tb\t01/{split}.mp3\t30.0\tgenre---rock\n"
        (folder / f"autotagging_top50tags-{split}.tsv").write_text(HEADER + row)
    for split in ("train", "validation", "test"):
        assert jamendo(str(tmp_path / "data"), split=split).paths == (f"01/{split}.mp3",)
    with pytest.raises(DatasetError, match=r"no autotagging_genre-test\.tsv"):
        jamendo(str(tmp_path / "data"), subset="autotagging_genre")
    with pytest.raises(DatasetError, match="'dev' is not one of train, validation, test"):
        jamendo(str(tmp_path / "data"), split="dev")


# ---- MSD ----


@pytest.fixture
def ids(tmp_path):
    (tmp_path / "ids.txt").write_text("TRABCAW128F429D538\nTRXYZBD128F429D539\n")
    (tmp_path / "tags.txt").write_text("Hip-Hop\nfemale vocalists\n60s\n")
    return str(tmp_path / "ids.txt")


MATRIX = np.array([[1, 0, 1], [0, 0, 1]])


def test_msd_matrices_are_one(ids, tmp_path):
    tags = str(tmp_path / "tags.txt")
    np.save(tmp_path / "y.npy", MATRIX.astype(np.float32))
    np.savez(tmp_path / "one.npz", y=MATRIX)
    sparse.save_npz(tmp_path / "csr.npz", sparse.csr_matrix(MATRIX))
    sparse.save_npz(tmp_path / "coo.npz", sparse.coo_array(MATRIX))
    (tmp_path / "y.csv").write_text("1,0,1\n0,0,1\n")
    (tmp_path / "named.csv").write_text("Hip-Hop,female vocalists,60s\n1,0,1\n0,0,1\n")
    for name in ("y.npy", "one.npz", "csr.npz", "coo.npz", "y.csv", "named.csv"):
        dataset = msd(ids, str(tmp_path / name), tags=None if name == "named.csv" else tags, audio="msd")
        assert dataset.labels.tolist() == MATRIX.astype(bool).tolist(), name
        assert dataset.tags == ("Hip-Hop", "female vocalists", "60s")
        assert dataset.file(0) == "msd/A/B/C/TRABCAW128F429D538.mp3"


def test_msd_vectors_beside_the_ids(tmp_path):
    (tmp_path / "gt.tsv").write_text("TRABCAW128F429D538\t[1, 0, 1]\nTRXYZBD128F429D539\t[0, 0, 1]\n")
    dataset = msd(str(tmp_path / "gt.tsv"), tags=("a", "b", "c"))
    assert dataset.labels.tolist() == MATRIX.astype(bool).tolist()
    (tmp_path / "gt.tsv").write_text("TRABCAW128F429D538\n")
    with pytest.raises(DatasetError, match="has no vector"):
        msd(str(tmp_path / "gt.tsv"), tags=("a",))


def test_msd_templates(ids, tmp_path):
    np.save(tmp_path / "y.npy", MATRIX)

    def paths(template):
        return msd(ids, str(tmp_path / "y.npy"), tags=("a", "b", "c"), template=template).paths

    assert paths("{id}.wav")[1] == "TRXYZBD128F429D539.wav"
    assert paths("clips/{id[0]}/{stem}.clip.mp3")[0] == "clips/T/TRABCAW128F429D538.clip.mp3"
    for bad in ("{id.__class__}", "{}", "{0}", "{id!r}", "{id:>9}", "{id[x]}", "same.mp3", "{id", "{name}"):
        with pytest.raises(DatasetError, match="template"):
            paths(bad)
    with pytest.raises(DatasetError, match="too short"):
        paths("{id[40]}.mp3")


def test_msd_sizes_and_values(ids, tmp_path):
    y = str(tmp_path / "y.npy")
    cases = [
        (MATRIX, None, "3 columns without names"),
        (MATRIX[:1], ("a", "b", "c"), "1 rows; .*ids.txt has 2 ids"),
        (MATRIX, ("a", "b"), "3 columns for 2 tags"),
        (2 * MATRIX, ("a", "b", "c"), "2 in row 0 is neither 0 nor 1"),
        (np.where(MATRIX, np.nan, 0), ("a", "b", "c"), "nan in row 0 is neither 0 nor 1"),
        (MATRIX[0], ("a", "b", "c"), r"\[3\]; labels are numbers"),
    ]
    for matrix, tags, message in cases:
        np.save(y, matrix)
        with pytest.raises(DatasetError, match=message):
            msd(ids, y, tags=tags)
    for name in ("broken.npz", "broken.npy"):
        (tmp_path / name).write_bytes(b"PK\3\4 and no more")
        with pytest.raises(DatasetError, match=name):
            msd(ids, str(tmp_path / name), tags=("a", "b", "c"))


# ---- CSV ----


def test_csv_forms_are_one(tmp_path):
    texts = {
        "lists.csv": "a/one.mp3,rock,loud\nb two.mp3,jazz\nthree.mp3\n",
        "headed.csv": "path,tags\na/one.mp3,rock,loud\nb two.mp3,jazz\nthree.mp3\n",
        "long.csv": "path,tag\na/one.mp3,rock\nb two.mp3,jazz\na/one.mp3,loud\nthree.mp3,\n",
        "matrix.csv": "path,jazz,loud,rock\na/one.mp3,0,1,1\nb two.mp3,1,0,0\nthree.mp3,0,0,0\n",
        "matrix.tsv": "filename\tjazz\tloud\trock\na/one.mp3\t0\t1\t1.0\nb two.mp3\t1\t0\t0\nthree.mp3\t0\t0\t0\n",
        "bom.csv": "\ufeffpath,jazz,loud,rock\r\na/one.mp3,0,1,1\r\n\r\nb two.mp3,1,0,0\r\nthree.mp3,0,0,0\r\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
        dataset = plain(str(tmp_path / name))
        assert dataset.paths == ("a/one.mp3", "b two.mp3", "three.mp3"), name
        assert dataset.tags == ("jazz", "loud", "rock"), name
        assert dataset.labels.tolist() == [[False, True, True], [True, False, False], [False] * 3], name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,rock,jazz\na.mp3,1,2\n", "line 2: '2' is neither 0 nor 1"),
        ("path,rock,jazz\na.mp3,1\n", "line 2: 2 fields; 3 expected"),
        ("a.mp3,1,0\nb.mp3,0,1\n", "line 1: '1' is no tag; a matrix of 0 and 1 needs a header"),
        ("a.mp3\nb.mp3\n", "has no tags"),
    ],
)
def test_csv_errors(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        plain(str(tmp_path / "a.csv"))


SPLIT_FORMS = {  # what recipes/train.py takes: both give these rows
    "matrix.csv": "path,split,jazz,rock\na.mp3,train,0,1\nb.mp3,valid,1,0\n./c.mp3,TEST,1,1\nd.mp3,test,0,0\n",
    "lists.csv": "Path,Split,tags\na.mp3,train,rock\nb.mp3,dev,jazz\nc.mp3,test,rock;jazz\nd.mp3,test\n",
    "fields.csv": "path,split,tag\na.mp3,Training,rock\nb.mp3,val,jazz\nc.mp3,test,rock\nc.mp3,test,jazz\nd.mp3,test\n",
}


@pytest.mark.parametrize("form", SPLIT_FORMS)
def test_csv_splits(tmp_path, form):
    path = tmp_path / form
    path.write_text(SPLIT_FORMS[form])
    expected = {
        None: ("test", {"c.mp3": [True, True], "d.mp3": [False, False]}),
        "test": ("test", {"c.mp3": [True, True], "d.mp3": [False, False]}),
        "validation": ("validation", {"b.mp3": [True, False]}),
        "train": ("train", {"a.mp3": [False, True]}),
        "all": (
            "all",
            {"a.mp3": [False, True], "b.mp3": [True, False], "c.mp3": [True, True], "d.mp3": [False, False]},
        ),
    }
    for split, (used, rows) in expected.items():
        dataset = plain(str(path), split=split)
        assert dataset.tags == ("jazz", "rock")  # of the whole file, whichever split is taken
        assert dict(zip(dataset.paths, dataset.labels.tolist(), strict=True)) == rows, split
        assert dataset.source == {"annotations": str(path), "split": used}
        assert dataset.notes == ()
    (tmp_path / "list.txt").write_text("d.mp3\na.mp3\n")
    assert plain(str(path), clips=str(tmp_path / "list.txt")).paths == ("d.mp3", "a.mp3")  # of any split


def test_csv_top_tags_are_those_of_the_whole_file(tmp_path):
    rows = "".join(f"{i}.mp3,train,1,0\n" for i in range(3))
    (tmp_path / "a.csv").write_text(f"path,split,often,seldom\n{rows}t.mp3,test,0,1\n")
    assert plain(str(tmp_path / "a.csv"), top=1).tags == ("often",)


def test_csv_without_test_clips_is_taken_whole_and_says_so(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("path,split,rock\na.mp3,train,1\nb.mp3,valid,0\nc.mp3,train,0\n")
    dataset = plain(str(path))
    assert dataset.paths == ("a.mp3", "b.mp3", "c.mp3")
    assert dataset.source["split"] == "all"
    assert dataset.notes == (f"{path}: no clip has the split 'test'; all are taken (2 train, 1 validation)",)
    with pytest.raises(DatasetError, match=f"^{path}: no clip has the split 'test'$"):
        plain(str(path), split="test")


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("path,split,rock\na.mp3,fold1,1\n", None, "line 2: split 'fold1' is not one of train, training, valid, "),
        ("path,split,tags\na.mp3,test,rock\nb.mp3\n", None, "line 3: split '' is not one of train"),
        ("path,split,rock\na.mp3,test,1\na.mp3,train,1\n", None, "line 3: clip 'a.mp3' is in two splits, test and"),
        ("path,split,rock\na.mp3,test,1,0\n", None, "line 2: 4 fields; 3 expected"),
        ("path,split,rock\na.mp3,test,test\n", None, "line 2: 'test' is neither 0 nor 1"),
        ("path,split,tags\na.mp3,test,1,0\n", None, "line 2: '1' is no tag; a matrix of 0 and 1 needs a header"),
        ("path,split\na.mp3,test\n", None, "has no tags"),
        ("path,split,rock\n", None, "has no clips"),
        ("path,rock\na.mp3,1\n", "test", "the split 'test' needs a second column: path,split,..."),
        ("a.mp3,rock\n", "all", "the split 'all' needs a second column: path,split,..."),
    ],
)
def test_csv_split_errors(tmp_path, text, split, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DatasetError) as error:
        plain(str(path), split=split)
    assert str(error.value).startswith(f"{path}: {message}")
    with pytest.raises(DatasetError, match=r"^split: 'dev' is not one of train, validation, test, all$"):
        plain(str(path), split="dev")


def test_suffix_and_absolute_paths(tmp_path):
    (tmp_path / "a.csv").write_text(f"x/a.mp3,rock\n{tmp_path}/b.mp3,jazz\n")
    dataset = plain(str(tmp_path / "a.csv"), audio="music", suffix=".flac")
    assert [dataset.file(i) for i in range(2)] == ["music/x/a.flac", f"{tmp_path}/b.flac"]


def test_map_files(tmp_path):
    from fcntag.eval import read_merges

    (tmp_path / "map.json").write_text(json.dumps({"a": "x", "b": ["x", "y"], "c": None}))
    assert read_merges(str(tmp_path / "map.json")) == {"a": ("x",), "b": ("x", "y"), "c": ()}
    for text in ("[1]", "{", '{"a": 3}'):
        (tmp_path / "map.json").write_text(text)
        with pytest.raises(DatasetError, match=r"map\.json"):
            read_merges(str(tmp_path / "map.json"))
