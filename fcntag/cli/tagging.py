"""Tagging with the options of a command: the Tagger is made, its inputs go in one by one, its results are written."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any

from ..errors import FcntagError
from .inputs import PassedOver, collect, hint
from .paths import check_outputs
from .streams import Progress, UsageError, log, show
from .writers import Writer, named

if TYPE_CHECKING:
    from ..tagger import Tagger


def check_inputs(arguments: argparse.Namespace, **more: str | None) -> None:
    """Raise UsageError for options that would lose data or cannot work, before anything is loaded.

    ``more`` holds the files that the command writes besides that of ``-o``, by their option or a description.
    """
    from ..pipeline.segments import check_options

    if arguments.inputs.count("-") > 1:
        raise UsageError("-: stdin can be read only once")
    try:
        check_options(arguments.segments, arguments.hop)
    except ValueError as error:
        raise UsageError(str(error)) from None
    inputs = [*arguments.inputs, arguments.model]
    check_outputs({"-o": arguments.output, **more}, inputs, arguments.recursive)


def make_tagger(arguments: argparse.Namespace) -> Tagger:
    """The Tagger that the options ask for; raises ModelError, DeviceError, or UsageError for a value out of range."""
    from ..tagger import Tagger

    try:
        return Tagger(
            arguments.model,
            device=arguments.device,
            precision=arguments.precision,
            max_batch=arguments.batch_size,
            threads=arguments.threads,
            reduce=not arguments.no_reduce,
        )
    except FcntagError:
        raise
    except ValueError as error:  # of an option, or of FCNTAG_NUM_THREADS and the like
        raise UsageError(str(error)) from None


def report(result: Any, quiet: bool) -> bool:
    """Print a track's warnings and its error on stderr; True if it failed."""
    if not quiet:
        for warning in result.warnings:
            log(f"{result.path}: {warning}")
    if result.error is not None:
        log(result.error + hint(result.path))
    return result.error is not None


class Inputs:
    """The sources of a run, without those in ``done`` (as ``show`` prints them).

    ``total`` is their number, or None where it is not known yet. ``failed`` counts those that could not be listed,
    ``passed`` what the folders hold besides.
    """

    def __init__(self, arguments: argparse.Namespace, done: Set[str] = frozenset()) -> None:
        self._arguments, self._done = arguments, done
        self.failed = 0
        self.passed = PassedOver()
        # Folders are walked while their files are tagged, so the number of files is known only at the end.
        walks = arguments.recursive and any(os.path.isdir(name) for name in arguments.inputs)
        self.total = None if walks or done else len(arguments.inputs)

    def __iter__(self) -> Iterator[Any]:
        for source in collect(self._arguments.inputs, self._arguments.recursive, self._fail, self.passed):
            if not (isinstance(source, str) and show(source) in self._done):
                yield source

    def _fail(self, message: str) -> None:
        self.failed += 1
        log(message)


def drain(results: Any, inputs: Inputs, writer: Writer, progress: Progress, quiet: bool) -> int:
    """Report and write every result as it comes; the exit code."""
    failed = 0
    with contextlib.closing(results):  # an interrupt stops the decoding threads at once, not at a later collection
        for result in results:
            bad = report(result, quiet)
            failed += bad
            with named(writer.path):
                writer.write(result)
            progress.step(bad)
    if not quiet and (line := inputs.passed.line()):
        log(line)
    return 1 if failed or inputs.failed else 0
