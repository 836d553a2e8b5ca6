"""Published figures stand in a report only beside the test set that they were published for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fcntag.catalogue.facts import entries
from fcntag.catalogue.store import load_model
from fcntag.eval import Dataset, Scores, align, evaluate, published_figures

N_CLIPS = 5329  # MagnaTagATune's folders d, e and f


@pytest.fixture(scope="module")
def document():
    return load_model("mtt-vgg").document


def a_dataset(document, n_clips=N_CLIPS, name="MagnaTagATune", folders="def"):
    rng = np.random.default_rng(0)
    paths = tuple(f"{folders[i % len(folders)]}/{i}.mp3" for i in range(n_clips))
    return Dataset(name, paths, document.tags, rng.random((n_clips, len(document.tags))) < 0.1, notes=("a note",))


def all_scores(document, dataset):
    n_clips = len(dataset.paths)
    values = np.random.default_rng(1).random((n_clips, len(document.tags)))
    return Scores(document.tags, values, np.ones(n_clips, bool))


def test_the_very_test_set_has_them(document):
    dataset = a_dataset(document)
    truth, scores = align(dataset, document.tags), all_scores(document, dataset)
    figures, notes = published_figures(document, truth, scores)
    assert [(figure["name"], round(figure["value"], 4)) for figure in figures] == [
        ("ROC-AUC", 0.9030),
        ("PR-AUC", 0.3823),
    ]
    assert notes == ()
    report = evaluate(truth, scores, resamples=0, published=figures, notes=notes)
    assert any(line.startswith("published: ROC-AUC 0.9030") for line in report.lines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_clips=4332), "they are for a test set of 5329 clips, these are 4332"),
        (dict(n_clips=5330), "they are for a test set of 5329 clips, these are 5330"),
        (dict(folders="cde"), "they are for the 5329 clips of the test split, the folders d, e, f"),
    ],
)
def test_another_test_set_has_not(document, change, message):
    dataset = a_dataset(document, **change)
    found = published_figures(document, align(dataset, document.tags), all_scores(document, dataset))
    assert found == ((), (f"the published figures of mtt-vgg are not shown: {message}",))


def test_neither_has_one_with_a_clip_or_a_tag_less(document):
    dataset = a_dataset(document)
    truth, scores = align(dataset, document.tags), all_scores(document, dataset)
    scores.known[17] = False
    figures, notes = published_figures(document, truth, scores)
    assert (figures, len(notes)) == ((), 1)
    assert notes[0].endswith("they are for 5329 clips, of which 5328 have scores here")
    fewer = dataclasses.replace(dataset, tags=dataset.tags[1:], labels=dataset.labels[:, 1:])
    merged = align(dataset, document.tags, {document.tags[0]: (document.tags[1],)})
    for other in (align(fewer, document.tags), merged):
        figures, notes = published_figures(document, other, all_scores(document, dataset))
        assert (figures, len(notes)) == ((), 1)
        assert notes[0].endswith("they are for 50 tags, each of them one tag of the dataset")


def test_a_model_without_figures_for_a_dataset_says_nothing(document):
    dataset = a_dataset(document, n_clips=8, name="csv")
    assert published_figures(document, align(dataset, document.tags), all_scores(document, dataset)) == ((), ())


def test_a_model_of_another_name_has_no_test_set_on_record(document):
    mine, dataset = dataclasses.replace(document, name="mine"), a_dataset(document)
    _, notes = published_figures(mine, align(dataset, mine.tags), all_scores(mine, dataset))
    assert notes == ("the published figures of mine are not shown: their test set is not on record",)


def test_test_sets_of_the_catalogue():
    """By dataset and protocol: Won et al. leave out MagnaTagATune's untagged clips, musicnn keeps them."""
    found = {entry.name: entry.test_clips for entry in entries()}
    assert (found["mtt-vgg"], found["won2020-fcn-mtat"]) == (5329, 4332)
    assert found["msd-vgg"] == found["won2020-fcn-msd"] == 28435
    assert found["won2020-fcn-jamendo"] == 11356
    assert found["msd-vgg-as-shipped"] == 0  # no figure of its own
    assert all(entry.metrics for entry in entries() if entry.test_clips)
