"""Whatever the bytes, read_model gives a checked model or a ModelError, in little time and memory."""

from __future__ import annotations

import copy
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.make_models import block, make_model
from test_modelfile import join, split

from fcntag.errors import ModelError
from fcntag.model.file import METADATA_KEY, check_tensors, read_model, write_model

FUZZ = settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MAX_MEMORY = 32 << 20  # the file has some 5 kB; a few MB go to what Hypothesis and Python keep


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A valid file that has every kind of tensor."""
    rng = np.random.default_rng(1)
    model = make_model(rng, [block(3, affine=True, window=(2, 2)), block(2, window=(10, 8))], normalization="per_mel")
    path = tmp_path_factory.mktemp("fuzz") / "seed.safetensors"
    write_model(path, model.document, model.tensors)
    return path.read_bytes()


def check(path: Path, data: bytes) -> None:
    """Only ModelError, in one line that begins with the path, or a model that holds what its document says."""
    path.write_bytes(data)
    tracemalloc.start()
    model, message = None, ""
    try:
        model = read_model(path)
    except ModelError as error:
        message = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MAX_MEMORY
    if model is None:
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
    else:
        check_tensors(model.document, model.tensors)
        assert model.document.validate() == model.document


@FUZZ
@given(data=st.data())
def test_changed_bytes(seed: bytes, tmp_path: Path, data: st.DataObject) -> None:
    mutated = bytearray(seed)
    header_end = 8 + int.from_bytes(seed[:8], "little")
    for _ in range(data.draw(st.integers(0, 8), "changes")):
        # Half of them in the length and the header, where a change matters most.
        end = data.draw(st.sampled_from([16, header_end, len(mutated)]), "within")
        at = data.draw(st.integers(0, max(0, min(end, len(mutated)) - 1)), "at")
        how = data.draw(st.sampled_from(["set", "insert", "delete", "cut"]), "how")
        if how == "set" and mutated:
            mutated[at] = data.draw(st.integers(0, 255), "byte")
        elif how == "insert":
            mutated[at:at] = data.draw(st.binary(max_size=16), "bytes")
        elif how == "delete":
            del mutated[at : at + data.draw(st.integers(1, 64), "count")]
        elif how == "cut":
            del mutated[at:]
    check(tmp_path / "model", bytes(mutated))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["F32", "F16", "BOOL", "relu", "max", "per_frame", "spread", "__metadata__", "head.bias", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


def mutate(tree: Any, data: st.DataObject) -> Any:
    """Replace, drop, double or copy one randomly chosen part of a JSON tree."""
    tree = copy.deepcopy(tree)
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return tree
        key = data.draw(st.sampled_from(keys), "key")
        if isinstance(node[key], dict | list) and node[key] and data.draw(st.integers(0, 4), "deeper"):
            node = node[key]
            continue
        how = data.draw(st.sampled_from(["replace", "drop", "add", "scale", "copy"]), "how")
        if how == "drop":
            del node[key]
        elif how == "copy":
            node[key] = copy.deepcopy(node[data.draw(st.sampled_from(keys), "from")])
        elif how == "scale" and isinstance(node[key], int | float):
            node[key] = node[key] * data.draw(st.sampled_from([-1, 0, 2, 10**6, 10**15]), "factor")
        elif how == "add" and isinstance(node, dict):
            node[data.draw(st.text(max_size=8), "name")] = data.draw(JSON, "value")
        elif how == "add":
            node.append(data.draw(JSON, "value"))
        else:
            node[key] = data.draw(JSON, "value")
        return tree


@FUZZ
@given(data=st.data())
def test_changed_header(seed: bytes, tmp_path: Path, data: st.DataObject) -> None:
    header, payload = split(seed)
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        header = mutate(header, data)
    check(tmp_path / "model", join(header, payload))


@FUZZ
@given(data=st.data())
def test_changed_document(seed: bytes, tmp_path: Path, data: st.DataObject) -> None:
    header, payload = split(seed)
    document = json.loads(header["__metadata__"][METADATA_KEY])
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        document = mutate(document, data)
    header["__metadata__"][METADATA_KEY] = json.dumps(document)
    check(tmp_path / "model", join(header, payload))
