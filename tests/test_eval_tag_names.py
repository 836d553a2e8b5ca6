"""Names of columns: lines, arrays, and lists in Python files, which are parsed and never run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fcntag.errors import DatasetError
from fcntag.eval import msd
from fcntag.eval.datasets.tag_names import read_tags

NAMES = ("rock", "female vocalists", "Hip-Hop", "80s")


def write(tmp_path, name: str, text: str) -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "TAGS = ['rock', 'female vocalists',\n        'Hip-Hop', '80s']\n\n",
        "# the tags\nTAGS: list[str] = ['rock', \"female vocalists\", 'Hip-Hop', '80s']\n",
        "import numpy as np\n\nTAGS = np.array(['rock', 'female vocalists', 'Hip-Hop', '80s'])\nN = len(TAGS)\n",
        "('rock', 'female vocalists', 'Hip-Hop', '80s')",
        "tags = {'female vocalists': 1, 'rock': 0, '80s': 3, 'Hip-Hop': 2}",
        "tags = {0: 'rock', 1: 'female vocalists', 2: 'Hip-Hop', 3: '80s'}",
        "x = ['a']\nx = None\nSPLIT = 201680\ntags = ['rock', 'female vocalists', 'Hip-Hop', '80s']\n",
        "\ufeffTAGS = ['rock', ' female vocalists ', 'Hip-Hop', '80s']",
    ],
)
@pytest.mark.parametrize("name", ["tags.py", "tags.txt"])
def test_a_list_in_python(tmp_path, text, name):
    assert read_tags(write(tmp_path, name, text)) == NAMES


def test_other_forms(tmp_path):
    assert read_tags(write(tmp_path, "tags.txt", "\n".join(NAMES))) == NAMES
    assert read_tags(write(tmp_path, "tags.json", json.dumps(NAMES))) == NAMES
    np.save(tmp_path / "tags.npy", np.array(NAMES))
    assert read_tags(str(tmp_path / "tags.npy")) == NAMES
    assert read_tags(write(tmp_path, "short.txt", "rock\npop\n")) == ("rock", "pop")


def test_code_is_never_run(tmp_path):
    trap = tmp_path / "trap"
    call = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    assert read_tags(write(tmp_path, "tags.py", f"{call}\nTAGS = ['rock']")) == ("rock",)
    for text in (f"TAGS = ['rock'] if {call} else []", f"TAGS = [{call}]", f"import os\n{call}"):
        with pytest.raises(DatasetError, match="code is not run"):
            read_tags(write(tmp_path, "tags.py", text))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A = ['x']\nB = ['y', 'z']\n", r"holds 2 lists of names \(A, B\)"),
        ("def f():\n    return ['x']\n", "holds no list of names"),
        ("TAGS = ['x', 1]", "holds no list of names"),
        ("TAGS = {'x', 'y'}", "holds no list of names"),
        ("TAGS = {'x': 0, 'y': 2}", "holds no list of names"),
        ("TAGS = ['x'", "holds no list of names"),
        ("(" * 5000, "holds no list of names"),
        ("", "holds no list of names"),
    ],
)
def test_what_is_no_list(tmp_path, text, words):
    path = write(tmp_path, "tags.py", text)
    with pytest.raises(DatasetError, match=words) as error:
        read_tags(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "text"), [("tags.txt", "rock\npop\nrock\n"), ("tags.py", "T = ['rock', 'pop', 'rock']")]
)
def test_a_name_that_is_there_twice_is_laid_to_the_file_of_names(tmp_path, name, text):
    path = write(tmp_path, name, text)
    with pytest.raises(DatasetError) as error:
        read_tags(path)
    assert str(error.value) == f"{path}: 'rock' is there twice"


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DatasetError, match="No such file"):
        read_tags(str(tmp_path / "none.py"))
    (tmp_path / "x.py").write_bytes(b"\xff\xfe\0\0")
    with pytest.raises(DatasetError):
        read_tags(str(tmp_path / "x.py"))


def test_a_dataset_with_its_own_tags_py(tmp_path):
    ids = write(tmp_path, "ids.txt", "TRAAAA1\nTRBBBB2\n")
    np.save(tmp_path / "y.npy", np.array([[1, 0, 0, 1], [0, 1, 0, 0]]))
    tags = write(tmp_path, "tags.py", f"TAGS = {list(NAMES)!r}\n")
    assert msd(ids, str(tmp_path / "y.npy"), tags=tags).tags == NAMES
