"""Fixtures ``models`` (name -> Model) and ``backend`` (oracle, CPU engine, CUDA engine emulated): one test body."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fcntag.model.file import Model, write_model
from support import make_models
from support.emulated_cuda import installed
from support.run_folder import once, run_folder

ORIGINAL_FILES = {  # catalogue name -> file below shared/weights
    "choi2016-fcn5-narrow": "choi2016/R1_weights_best.hdf5",
    "choi2016-fcn5-narrow-v2": "choi2016/R4_music_tagger_cnn_weights_theano.h5",
    "choi2017-compact": "choi2017/C_weights_theano.hdf5",
    "choi2017-compact-keras2": "choi2017/K2_model_best.hdf5",
    "won2020-fcn-mtat": "won2020/mtat_fcn.pth",
    "won2020-fcn-msd": "won2020/msd_fcn.pth",
}


@pytest.fixture(scope="session")
def models(request: pytest.FixtureRequest) -> Callable[[str], Model]:
    """``models(name)``: a model of the catalogue, through the path a user takes.

    Embedded models load anywhere. The others are converted from the original file in ``shared/weights`` into a store of
    this run; without the reference material the test that asks for one skips.
    """
    from fcntag import catalogue
    from fcntag.pull import pull

    folder = run_folder("store")
    loaded: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in loaded:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("FCNTAG_HOME", str(folder))
                if name in ORIGINAL_FILES:
                    source = request.getfixturevalue("shared") / "weights" / ORIGINAL_FILES[name]
                    once(
                        folder / f"{name}.pulled",
                        lambda part, name=name, source=source: (pull(name, source=source), part.touch()),
                    )
                loaded[name] = catalogue.load_model(name)
        return loaded[name]

    return get


def in_plain_db(model: Model) -> Model:
    """The same model whose front end gives the mel power in dB with nothing clipped, rounded or normalised."""
    from fcntag.model.document import Log

    frontend = dataclasses.replace(
        model.document.frontend,
        power_exponent=1,
        rounding="none",
        log=Log(kind="db", amin=1e-30),
        normalization="none",
    )
    tensors = {name: value for name, value in model.tensors.items() if not name.startswith("input.")}
    return dataclasses.replace(model, document=dataclasses.replace(model.document, frontend=frontend), tensors=tensors)


class OracleBackend:
    """The float64 oracle, behind the interface of an engine but with the model as an argument."""

    name = kind = "oracle"

    def log_mel(self, model: Model, waves: np.ndarray) -> np.ndarray:
        from fcntag import oracle

        return oracle.network_input(model, waves)

    def mel_power(self, model: Model, waves: np.ndarray) -> np.ndarray:
        """[B, n_mels, n_frames], whatever the model's layout."""
        from fcntag import oracle

        return oracle.mel_power(model.document.frontend, waves)

    def features(self, model: Model, waves: np.ndarray, which: str = "head") -> np.ndarray:
        from fcntag import oracle

        return oracle.features(model, oracle.network_input(model, waves), which)  # type: ignore[arg-type]

    def __getattr__(self, method: str) -> Any:  # blocks, scores_of, logits, scores: as they are
        from fcntag import oracle

        return getattr(oracle, method)


class EngineBackend:
    """The C++ engine on one device; engines are kept for the session, one a model. ``core``: the emulated module."""

    kind = "engine"

    def __init__(self, device: str, core: ModuleType | None = None) -> None:
        self.name, self._core = device, core
        self._engines: dict[int, tuple[Model, Any]] = {}

    def _create(self, model: Model) -> Any:
        from fcntag.engine import create_engine

        if self._core is None:
            return create_engine(model, device=self.name)
        with installed(self._core):
            return create_engine(model, device=self.name, max_batch=4)

    def _engine(self, model: Model) -> Any:
        if id(model) not in self._engines:  # the model is kept too, so that its id stays its own
            self._engines[id(model)] = (model, self._create(model))
        return self._engines[id(model)][1]

    def mel_power(self, model: Model, waves: np.ndarray) -> np.ndarray:
        """[B, n_mels, n_frames]: the engine gives no power, so it comes back from its dB, to 1e-6 of its value."""
        with self._create(in_plain_db(model)) as engine:
            power = 10.0 ** (engine.log_mel(waves).astype(np.float64) / 10.0)
        return power if model.document.frontend.layout == "mel_time" else power.transpose(0, 2, 1)

    def __getattr__(self, method: str) -> Any:  # log_mel, blocks, scores_of, logits, scores, features
        return lambda model, *arguments, **options: getattr(self._engine(model), method)(*arguments, **options)

    def close(self) -> None:
        for _, engine in self._engines.values():
            engine.close()
        self._engines.clear()


def one_block_errors(model: Model, x: np.ndarray, device: str = "cpu") -> list[float]:
    """Relative L2 of each block alone: what the engine made of its own previous map, against the oracle on that map."""
    from fcntag import oracle
    from fcntag.engine import create_engine
    from support.numerics import relative_l2

    with create_engine(model, device=device) as engine:
        maps = engine.blocks(x)
    errors, y = [], np.asarray(x, np.float32).astype(np.float64)[:, None]
    for i, (block, actual) in enumerate(zip(model.document.blocks, maps, strict=True)):
        errors.append(relative_l2(actual, oracle.one_block(block, model.tensors, i, y)))
        y = actual.astype(np.float64)
    return errors


@pytest.fixture(scope="session", params=["oracle", "cpu", "cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[OracleBackend | EngineBackend]:
    """The oracle or an engine: ``backend.kind`` picks the tolerance in ``numerics``."""
    if request.param == "oracle":
        yield OracleBackend()
    else:
        core = request.getfixturevalue("emulated_core") if request.param == "cuda" else None
        engines = EngineBackend(request.param, core)
        yield engines
        engines.close()


@pytest.fixture
def three_blocks(rng: np.random.Generator) -> Model:
    """A small model: a direct block, Winograd with an affine and a strided pool, and ELU."""
    return make_models.make_model(
        rng,
        [
            make_models.block(16, window=(2, 2)),
            make_models.block(16, affine=True, window=(2, 2), stride=(1, 2)),
            make_models.block(8, activation="elu"),
        ],
        n_samples=8000,
        n_tags=6,
        normalization="per_mel",
    )


@pytest.fixture
def like(rng: np.random.Generator, tmp_path: Path) -> str:
    """Path of a model whose front end gives 20 x 32 values, with 6 tags and the pools (2, 4), (2, 2)."""
    model = make_models.make_model(
        rng, [make_models.block(8, window=(2, 4)), make_models.block(12, window=(2, 2))], n_samples=8000, n_tags=6
    )
    path = tmp_path / "like.safetensors"
    write_model(path, model.document, model.tensors)
    return str(path)
