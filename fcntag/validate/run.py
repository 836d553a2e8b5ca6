"""Running a validation: every stage of every input, by the engine and by the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine import create_engine
from ..errors import AudioError
from . import cases, references, stored, tolerances
from .cases import Case
from .measure import Stage, compare, compare_scores, mel_stage
from .references import REFERENCES, Reference
from .report import CaseReport, Report
from .stored import Stored, StoredError

if TYPE_CHECKING:
    from ..engine import Engine
    from ..model.file import Model

_MAX_BATCH = 4  # the maps of the whole network are large


def validate(
    model: Model,
    audio: Iterable[str] = (),
    *,
    against: str = "oracle",
    device: str = "auto",
    precision: str = "float32",
    threads: int = 0,
    reduce: bool = True,
    windows: int = 1,
    top: int = 5,
    save: str | None = None,
    progress: Callable[[CaseReport], None] | None = None,
) -> Report:
    """Validate ``model`` on noise, a random input, a synthetic piece, and windows of the files in ``audio``.

    Parameters
    ----------
    against : "oracle", "torch", "onnxruntime", or the path of an ``.npz`` file (see ``fcntag.validate.stored``). A file
        brings its own input. If it holds no waves, ``audio`` must name the one file that they came from.
    windows : how many of each file, spread evenly
    device, precision, threads, reduce : as for ``fcntag.engine.create_engine``
    top : how many of the best tags must come in the same order
    save : path of an ``.npz`` file, to which the reference's own stages of all waves are written
    progress : called with each input as it is done

    Returns
    -------
    Report
        A file of ``audio`` that cannot be read is an error in it.

    Raises
    ------
    ImportError : the reference's package is missing
    ValueError : ``against`` is unknown
    StoredError : the ``.npz`` file is bad
    DeviceError, ModelError : as for the engine
    """
    is_file = against.endswith(".npz")
    if not is_file and against not in REFERENCES:
        raise ValueError(f"against={against!r}; allowed: {', '.join(REFERENCES)}, or an .npz file")
    document = model.document
    reference = stored.read(against, document) if is_file else references.make(against, model)

    def engine(reduce: bool) -> Engine:
        return create_engine(
            model, device=device, precision=precision, max_batch=_MAX_BATCH, threads=threads, reduce=reduce
        )

    with engine(False) as whole, engine(reduce) as run:
        report = Report.of(model, run, against if isinstance(reference, Stored) else reference.about, against)

        def add(case: CaseReport) -> None:
            report.cases.append(case)
            if progress is not None:
                progress(case)

        kept: list[tuple[Case, list[Any]]] = []
        given = [] if isinstance(reference, Stored) else cases.built_in(document)
        items: list[Case | str] = [*given, *audio]
        for item in items:
            try:
                case = item if isinstance(item, Case) else cases.of_file(document, item, windows)
            except AudioError as error:
                add(CaseReport(str(item), error=str(error)))
                continue
            if isinstance(reference, Stored):
                _take_waves(reference, case)
                continue
            chain: list[Any] = []
            add(CaseReport(case.name, check(whole, run, reference, case, top=top, chain=chain)))
            if save is not None and case.waves is not None:
                kept.append((case, chain))
        if isinstance(reference, Stored):
            add(CaseReport(reference.path, check_stored(whole, run, reference, top=top)))
        if save is not None:
            stored.write(save, _join(kept))
    return report


def check(
    whole: Engine, run: Engine, reference: Reference, case: Case, *, top: int = 5, chain: list[Any] | None = None
) -> list[Stage]:
    """Check all stages of one case.

    Parameters
    ----------
    whole : an engine that reduces nothing
    run : the engine whose scores are checked
    reference, case : the other side, and the input
    top : how many of the best tags must come in the same order
    chain : if given, the reference's own mel, maps and scores are appended to it
    """
    document, precision = whole.document, whole.precision
    stages: list[Stage] = []
    if case.waves is not None:
        x = whole.log_mel(case.waves)
        own = reference.mel(case.waves)
        stages.append(mel_stage(x, own, whole))
    elif case.x is not None:
        x = own = case.x
    else:
        raise ValueError(f"{case.name}: a case has waves or x")
    slack = 0.0 if reference.exact else tolerances.FLOAT32_BLOCK
    maps = whole.blocks(x)
    y: Any = x[:, None]
    for i, actual in enumerate(maps):
        allowed = tolerances.block(precision, whole.device) + slack
        expected = reference.block(i, y)
        stages.append(compare(f"block {i + 1}", actual, expected, allowed, tolerances.ONE_VALUE * allowed))
        y = actual
    allowed = tolerances.HEAD + (0.0 if reference.exact else tolerances.FLOAT32_HEAD)
    for i, actual in enumerate(whole.hidden(x)):
        expected = reference.dense(i, y)
        stages.append(compare(f"hidden {i + 1}", actual, expected, allowed, tolerances.ONE_VALUE * allowed))
        y = actual
    logits, expected = whole.logits(x), reference.dense(reference.n_dense - 1, y)
    stages.append(compare("head", logits, expected, allowed, tolerances.ONE_VALUE * allowed))
    scores = run.scores(case.waves) if case.waves is not None else whole.scores_of(x)
    own_maps, expected = references.chain(reference, own)
    allowed = tolerances.SCORES[precision] + (0.0 if reference.exact else tolerances.FLOAT32_SCORES)
    stages.append(compare_scores(scores, expected, allowed, document.tags, top))
    if chain is not None:
        chain += [own, own_maps, expected]
    return stages


def check_stored(whole: Engine, run: Engine, golden: Stored, *, top: int = 5) -> list[Stage]:
    """Check the stages that a file holds."""
    document, precision = whole.document, whole.precision
    stages: list[Stage] = []
    x = None if golden.waves is None else whole.log_mel(golden.waves)
    if golden.mel is not None:
        if x is not None:
            stages.append(mel_stage(x, golden.mel, whole))
        x = np.ascontiguousarray(golden.mel, dtype=np.float32)
    if x is None:
        raise StoredError(f"{golden.path}: neither mel nor waves: nothing to run the network on")
    maps = whole.blocks(x) if golden.blocks else []
    for i, expected in sorted(golden.blocks.items()):
        allowed = tolerances.chained(tolerances.block(precision, whole.device), i) + stored.rounding(expected)
        stages.append(compare(f"block {i}", maps[i - 1], expected, allowed, tolerances.ONE_VALUE * allowed))
    if golden.scores is not None:
        scores = whole.scores_of(x) if golden.waves is None else run.scores(golden.waves)
        allowed = tolerances.SCORES[precision] + stored.rounding(golden.scores)
        stages.append(compare_scores(scores, golden.scores, allowed, document.tags, top))
    return stages


def _take_waves(golden: Stored, case: Case) -> None:
    """Give a file that holds no waves those of a sound file."""
    if case.waves is None:
        raise ValueError(f"{case.name}: no waves, which a file of stored arrays needs")
    if golden.waves is not None:
        raise StoredError(f"{golden.path}: holds its own waves; leave {case.name} out")
    if len(case.waves) != golden.batch:
        raise StoredError(f"{golden.path}: {golden.batch} segments, but {len(case.waves)} windows of {case.name}")
    golden.waves = case.waves


def _join(kept: list[tuple[Case, list[Any]]]) -> Stored:
    """The reference's stages of all cases that begin with waves, as one batch."""
    joined = Stored("", waves=np.concatenate([case.waves for case, _ in kept if case.waves is not None]))
    joined.mel = np.concatenate([chain[0] for _, chain in kept])
    for i, maps in enumerate(zip(*(chain[1] for _, chain in kept), strict=True), start=1):
        joined.blocks[i] = np.concatenate(maps)
    joined.scores = np.concatenate([chain[2] for _, chain in kept])
    return joined
