"""Result: order, limits, and a record that survives JSON without losing a bit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fcntag.result import EngineInfo, ModelInfo, Result, shortest

MODEL = ModelInfo("mtt-vgg", "ab" * 32)
ENGINE = EngineInfo("0.1.0", "cpu", "float32")


def make(scores=(0.1, 0.7, 0.30000001, 0.7)) -> Result:
    values = np.array(scores, np.float32)
    return Result(
        path="a.mp3",
        tags=("w", "x", "y", "z"),
        model=MODEL,
        engine=ENGINE,
        duration_s=6.5,
        scores=values,
        segments=np.stack([values, values]),
        start_s=[0.0, 3.0],
        end_s=[3.0, 6.0],
        warnings=("short",),
    )


def test_top_is_sorted_and_equal_scores_keep_the_models_order():
    assert [label for label, _ in make().top(None)] == ["x", "z", "y", "w"]
    assert make().top(1) == [("x", float(np.float32(0.7)))]


def test_top_threshold():
    assert [label for label, _ in make().top(None, threshold=0.5)] == ["x", "z"]
    assert [label for label, _ in make().top(1, threshold=0.5)] == ["x"]
    assert make().top(5, threshold=0.71) == []


@pytest.mark.parametrize("n", [0, -1])
def test_top_refuses_no_tags(n):
    with pytest.raises(ValueError, match="must be 1 or more"):
        make().top(n)


def test_record():
    assert make().to_dict(2) == {
        "path": "a.mp3",
        "duration_s": 6.5,
        "model": {"name": "mtt-vgg", "sha256": "ab" * 32},
        "engine": {"version": "0.1.0", "device": "cpu", "precision": "float32"},
        "tags": [{"label": "x", "score": 0.7}, {"label": "z", "score": 0.7}],
        "segments": [{"start_s": 0.0, "end_s": 3.0}, {"start_s": 3.0, "end_s": 6.0}],
        "warnings": ["short"],
        "error": None,
    }


def test_record_of_a_failed_track():
    failed = Result(path="b", tags=("w",), model=MODEL, engine=ENGINE, error="b: no audio samples")
    record = failed.to_dict()
    assert (record["tags"], record["segments"], record["duration_s"]) == ([], [], None)
    assert record["error"] == "b: no audio samples"
    assert failed.top() == []


def test_scores_survive_json(rng):
    scores = rng.uniform(0, 1, 1000).astype(np.float32) ** 8
    back = np.array(json.loads(json.dumps([shortest(score) for score in scores])), np.float32)
    np.testing.assert_array_equal(back, scores)
