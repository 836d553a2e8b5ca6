"""The command ``fcntag``: data to stdout, everything else to stderr, exit codes that a script can rely on.

Exit codes: 0 ok; 1 some inputs failed; 2 usage; 3 model missing or bad; 4 device not available; 130 interrupted;
141 the reader of stdout went away (a shell reports this code for a program that SIGPIPE ends).
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from ..errors import DeviceError, FcntagError, ModelError
from . import bench, convert, demo, doctor, embed, eval, export, models, tag, taggram, validate
from .streams import UsageError, libraries_hushed, log, logging_shown, prepare_streams

COMMANDS = (tag, taggram, embed, eval, models, convert, export, validate, bench, doctor, demo)


class _Version(argparse.Action):
    """``--version``, without importing more than the version until it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: object) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .. import __version__

        print(f"fcntag {__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. Imports nothing heavy: help and usage errors are instant."""
    parser = argparse.ArgumentParser(
        prog="fcntag",
        description="Tag music with fully convolutional networks: sound files in, scores out.",
        epilog="exit codes: 0 ok, 1 some inputs failed, 2 usage, 3 model missing or bad, 4 device not available, "
        "130 interrupted, 141 the reader of stdout went away",
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. ``argv`` as ``sys.argv[1:]``."""
    prepare_streams()
    parser = build_parser()
    try:
        arguments = parser.parse_args(argv)
        verbose = getattr(arguments, "verbose", False)
        decodes = arguments.command in ("tag", "taggram", "embed", "eval", "validate")
        with logging_shown(verbose), libraries_hushed(decodes and not verbose):
            code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not turn a clean end into a traceback
        log("interrupted")
        return 130
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, so stdout needs a descriptor that can be written to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UsageError as error:
        log(f"{error}")
        return 2
    except ModelError as error:
        log(f"{error}")
        return 3
    except DeviceError as error:
        log(f"{error}")
        return 4
    except FcntagError as error:
        log(f"{error}")
        return 1
    except OSError as error:  # of the output: a full disk, an unwritable folder. Those of inputs never get here.
        # A file that is written is always named (see writers.named): without a name it is stdout.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        name = f"{error.filename}: " if error.filename else "stdout: " if full else ""
        log(f"{name}{error.strerror or error}")
        return 1
