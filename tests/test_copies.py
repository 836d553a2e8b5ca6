"""Taggers, models and results on their way to other processes: pickles and copies."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from fcntag import FcntagError, ModelError, Tagger, catalogue, load_model
from fcntag.engine import create_engine
from fcntag.tagger import _OWN

OPTIONS = {"device": "cpu", "precision": "float32", "max_batch": 3, "threads": 2, "reduce": False}


@pytest.fixture(scope="module")
def waves() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (2, 48128)).astype(np.float32)


def same(one: Tagger, other: Tagger, waves: np.ndarray) -> bool:
    """Whether two Taggers have the same arguments and give the same scores, each by itself."""
    assert one._engine is not other._engine
    assert one._options == other._options
    assert (one.model_info, one.engine_info, one.threads) == (other.model_info, other.engine_info, other.threads)
    assert one._engine.max_batch == other._engine.max_batch
    assert (one._engine.reduction is None) == (other._engine.reduction is None)
    return np.array_equal(one.scores(waves), other.scores(waves))


@pytest.mark.parametrize("options", [{}, OPTIONS, {"threads": 0}])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_tagger_is_pickled_by_its_model_s_name(options, protocol, waves):
    with Tagger("mtt-vgg", **options) as tagger:
        data = pickle.dumps(tagger, protocol)
        assert len(data) < 2000
        with pickle.loads(data) as other:
            assert same(tagger, other, waves)
            assert other._origin == "mtt-vgg"


def test_a_path_travels_whole_and_has_to_lead_to_the_same_model(tmp_path, waves, monkeypatch):
    shutil.copy(catalogue.model_path("mtt-vgg"), tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    for given in ("mine.safetensors", Path("mine.safetensors")):
        with Tagger(given) as tagger:
            data = pickle.dumps(tagger)
            monkeypatch.chdir("/")
            with pickle.loads(data) as other:
                assert same(tagger, other, waves)
            monkeypatch.chdir(tmp_path)
    shutil.copy(catalogue.model_path("msd-vgg"), tmp_path / "mine.safetensors")
    with pytest.raises(
        ModelError, match=r"mine\.safetensors: the pickled Tagger's model has sha256 \w{12}; the one here"
    ):
        pickle.loads(data)
    os.unlink(tmp_path / "mine.safetensors")
    with pytest.raises(ModelError, match=r"mine\.safetensors: .*no such file"):
        pickle.loads(data)


def test_a_model_made_in_memory_travels_with_its_tensors(waves, models):
    model = models("mtt-vgg")
    with Tagger(model, threads=1) as tagger, pickle.loads(pickle.dumps(tagger)) as other:
        assert same(tagger, other, waves)
        assert other.model.document == model.document
        assert not any(array.flags.writeable for array in other.model.tensors.values())


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_is_another_tagger_with_the_same_model(how, waves):
    with Tagger("mtt-vgg", **OPTIONS) as tagger:
        other = how(tagger)
        assert other.model is tagger.model
        assert other._origin == "mtt-vgg"
        assert same(tagger, other, waves)
        other.close()
        assert tagger.scores(waves).shape == (2, 50)


class Named(Tagger):
    def __init__(self, label: list[str]) -> None:
        super().__init__("mtt-vgg", threads=1)
        self.label = label


def test_a_subclass_keeps_what_it_has_added(waves):
    with Named(["mine"]) as tagger:
        for other in (pickle.loads(pickle.dumps(tagger)), copy.copy(tagger), copy.deepcopy(tagger)):
            assert type(other) is Named
            assert other.label == ["mine"]
            assert same(tagger, other, waves)
        assert copy.copy(tagger).label is tagger.label
        assert copy.deepcopy(tagger).label is not tagger.label


def test_every_attribute_of_a_tagger_is_known_to_its_pickle():
    with Tagger("mtt-vgg") as tagger:
        assert set(vars(tagger)) == _OWN


def test_a_closed_tagger_cannot_be_copied():
    tagger = Tagger("mtt-vgg")
    tagger.close()
    for how in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(FcntagError, match="is closed"):
            how(tagger)


def test_an_engine_says_what_to_copy_instead(models):
    with create_engine(models("mtt-vgg"), threads=1) as engine:
        for how in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(
                TypeError, match=r"CpuEngine: .* cannot be pickled or copied; pickle or copy the Tagger"
            ):
                how(engine)


def test_results_are_pickled(waves):
    with Tagger("mtt-vgg", threads=1) as tagger:
        result = tagger.tag(waves[0], sample_rate=16000)
        found = pickle.loads(pickle.dumps(result))
        assert found.to_dict() == result.to_dict()
        np.testing.assert_array_equal(found.segments, result.segments)
        embedding = pickle.loads(pickle.dumps(tagger.embed(waves[0], sample_rate=16000)))
        assert embedding.mean.shape == (tagger._engine.features(waves).shape[1],)
        (failed,) = tagger.tag_many(["none.wav"])
        assert pickle.loads(pickle.dumps(failed)).error == failed.error
        with pytest.raises(FcntagError) as raised:
            tagger.tag("none.wav")
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_a_model_keeps_its_tensors_read_only():
    model = load_model("mtt-vgg")
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert other.document == model.document
        assert other.sha256 == model.sha256
        assert not any(array.flags.writeable for array in other.tensors.values())


def test_no_number_of_threads_is_the_default(monkeypatch):
    monkeypatch.setenv("FCNTAG_NUM_THREADS", "3")
    for threads in (None, 0):
        with Tagger(threads=threads) as tagger:
            assert tagger.threads == 3
    with pytest.raises(ValueError, match=r"threads: 'two'"):
        Tagger(threads="two")
