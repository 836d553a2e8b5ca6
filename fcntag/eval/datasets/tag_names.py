"""The names of a matrix's columns: one a line, an array of strings, or a list in a Python or JSON file."""

from __future__ import annotations

import ast
import os
from typing import Any

from ...errors import DatasetError
from .lists import read_list

MAX_BYTES = 1 << 20
_ARRAY_MAKERS = ("array", "asarray", "list", "tuple")


def read_tags(path: str) -> tuple[str, ...]:
    """The names at ``path``, in the order of the columns.

    A file of Python code, such as the ``tags.py`` beside a split, is parsed and never run. Only literals count: one
    list or tuple of strings, or a dict that numbers names from 0.

    Raises
    ------
    DatasetError : unreadable, no names, a name twice, or several lists
    """
    names = _in_file(path)
    twice = next((name for k, name in enumerate(names) if name in names[:k]), None)
    if twice is not None:
        raise DatasetError(f"{path}: {twice!r} is there twice")
    return names


def _in_file(path: str) -> tuple[str, ...]:
    text = _text(path)
    if text is not None:
        found = _literals(text)
        if len(found) > 1:
            names = ", ".join(name for name, _ in found)
            raise DatasetError(f"{path}: holds {len(found)} lists of names ({names}); save the one that is meant")
        if found:
            return found[0][1]
        if path.lower().endswith((".py", ".json")):
            raise DatasetError(f"{path}: holds no list of names, such as TAGS = ['rock', 'pop']; code is not run")
    return tuple(fields[0].strip() for fields in read_list(path))


def _text(path: str) -> str | None:
    """The file as text; None where it is none, or too long for a list of names."""
    try:
        if path.lower().endswith(".npy") or os.path.getsize(path) > MAX_BYTES:
            return None
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        return None


def _literals(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Name and value of every list of strings that stands in the outermost lines of Python code."""
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # plain lines are seldom Python
        return []
    found = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, value = node.target.id, node.value
        elif isinstance(node, ast.Expr):
            name, value = f"line {node.lineno}", node.value
        else:
            continue
        names = _names(value)
        if names:
            found[name] = names
        else:
            found.pop(name, None)  # assigned anew
    return list(found.items())


def _names(node: ast.expr) -> tuple[str, ...]:
    """The names in a literal, also within ``np.array(...)``; none if it is anything else."""
    if isinstance(node, ast.Call) and node.args:
        made_by = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return _names(node.args[0]) if made_by in _ARRAY_MAKERS else ()
    try:
        value: Any = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return ()
    if isinstance(value, dict):
        numbered = {v: k for k, v in value.items()} if all(isinstance(k, str) for k in value) else value
        if not all(isinstance(k, int) for k in numbered) or sorted(numbered) != list(range(len(value))):
            return ()
        value = [numbered[i] for i in range(len(value))]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        return ()
    return tuple(item.strip() for item in value)
