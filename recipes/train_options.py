"""The options of recipes/train.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def make_parser(description: str) -> argparse.ArgumentParser:
    """The parser of train.py's command line, whose help begins with ``description``."""
    parser = argparse.ArgumentParser(description=description, epilog="see the head of train.py, and recipes/README.md")
    parser.add_argument("dataset", help="CSV: path,split,TAG,TAG,... with 0 and 1, or path,split,tags")
    parser.add_argument("--audio", metavar="DIR", help="folder that its paths start from (default: the file's own)")
    parser.add_argument("--network", required=True, metavar="NAME", help="fcn5-narrow, fcn4, FILE.json, ...")
    parser.add_argument("--out", required=True, metavar="DIR", help="checkpoint, log and model file")
    parser.add_argument("--cache", metavar="DIR", help="log-mels, to be shared by several runs (default: OUT/cache)")
    parser.add_argument("--epochs", type=_number(int, 1), default=100, metavar="N", help="at most (default: 100)")
    parser.add_argument("--patience", type=_number(int, 1), default=10, metavar="N", help="epochs without a better one")
    parser.add_argument("--batch", type=_number(int, 2), default=16, metavar="N", help="clips in a step (default: 16)")
    parser.add_argument("--lr", type=_number(float, 0), default=1e-3, help="Adam's learning rate (default: 0.001)")
    parser.add_argument("--decay", action="store_true", help="learning rate falls to 0 over --epochs, in a line")
    parser.add_argument("--dropout", type=_number(float, 0, 0.95), default=0.5, help="after every pool (default: 0.5)")
    parser.add_argument("--seed", type=_number(int, 0), default=0)
    parser.add_argument("--threads", type=_number(int, 0), default=0, help="CPU threads (default: all of the process)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 (autocast); scores stay float32")
    parser.add_argument(
        "--checkpoint-every", type=_number(float, 1), default=300.0, metavar="S", help="and every epoch"
    )
    parser.add_argument("--stop-after", type=_number(float, 0), default=0.0, metavar="S", help="checkpoint and exit 75")
    parser.add_argument("--estimate", action="store_true", help="print what a step and an epoch take; train nothing")
    for name, default in (("name", ""), ("dataset-name", ""), ("training-data", ""), ("authors", "not stated")):
        parser.add_argument(f"--{name}", default=default, metavar="TEXT", help="for the model document")
    parser.add_argument("--licence", default="not stated", metavar="SPDX", help="of the weights, for the document")
    return parser


def _number(kind: type, low: float, high: float = float("inf")) -> Callable[[str], Any]:
    """A type for argparse: a number of this kind from ``low`` to ``high``, both allowed."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            allowed = f"at least {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"{text}; allowed: {allowed}")
        return value

    parse.__name__ = kind.__name__  # argparse says "invalid float value" where float() fails
    return parse
