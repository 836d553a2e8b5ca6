"""PyTorch's files without PyTorch: what ``torch.save`` wrote, as plain containers, with nothing of it executed.

A pickle is a program. This reader runs a machine of it that has no way to call or look up anything: a global is a name
(:class:`Global`), calling one gives a :class:`Foreign` or, for the few of ``_BUILDERS``, a plain container or a
:class:`Tensor`. Therefore a training checkpoint with an ``argparse.Namespace`` or any other object in it is read too,
and the object stays a name. Both formats are read: zip archives, and the bare pickles of PyTorch before 1.6.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

MAX_ELEMENTS = 1 << 26  # of one tensor: 2.6 x the widest network of the paper
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # at the start of a bare pickle
# Storages of which we know the numbers; bfloat16 is the upper half of a float32.
_DTYPES = {
    "double": "<f8",
    "float": "<f4",
    "half": "<f2",
    "bfloat16": "bfloat16",
    "long": "<i8",
    "int": "<i4",
    "short": "<i2",
    "char": "<i1",
    "byte": "<u1",
    "bool": "?",
}
_TORCH_NAMES = {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "char": "int8",
    "byte": "uint8",
}


@dataclass(frozen=True)
class Global:
    """The name of a class or function. It is never looked up."""

    name: str


@dataclass
class Foreign:
    """An object of a class that is not read: its class, its state if it had one, and its items if it is a mapping."""

    name: str
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    @property
    def is_module(self) -> bool:
        """Whether it is a module of PyTorch with all its code's state, and not a state dict."""
        return isinstance(self.state, dict) and "_modules" in self.state and "_parameters" in self.state


@dataclass(frozen=True)
class Storage:
    """Numbers of one type in the file, by their key."""

    dtype: str
    key: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; ``odd`` says why it cannot be read, and is "" for a dense one."""

    storage: Storage | None
    offset: int = 0
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    odd: str = ""


class DamagedError(Exception):
    """The file does not hold what it claims."""


@dataclass
class Contents:
    """The object of a file, and the bytes of its storages by key."""

    root: Any
    read: Callable[[Storage], bytes]

    def array(self, tensor: Tensor) -> np.ndarray:
        """The numbers of a dense tensor: floats as float64, integers as int64. Raises DamagedError."""
        storage = tensor.storage
        if storage is None or storage.dtype not in _DTYPES:
            raise DamagedError(tensor.odd or "a tensor without numbers")
        kind = _DTYPES[storage.dtype]
        data = np.frombuffer(self.read(storage), "<u2" if kind == "bfloat16" else kind)
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.size, tensor.stride, strict=True))
        count = math.prod(tensor.size)
        if count and not 0 <= tensor.offset <= last < len(data):
            raise DamagedError("a tensor beyond the end of its storage")
        if not count:
            return np.zeros(tensor.size)
        if kind == "bfloat16":
            data = (data[tensor.offset : last + 1].astype(np.uint32) << 16).view(np.float32)
        else:
            data = data[tensor.offset : last + 1]
        view = np.lib.stride_tricks.as_strided(data, tensor.size, [s * data.itemsize for s in tensor.stride])
        return view.astype(np.float64 if data.dtype.kind == "f" else np.int64)


def dtype_of(tensor: Tensor) -> str:
    """The type as PyTorch calls it, e.g. "torch.bool"."""
    name = tensor.storage.dtype if tensor.storage is not None else "unknown"
    return f"torch.{_TORCH_NAMES.get(name, name)}"


def load(data: bytes) -> Contents:
    """Read what ``torch.save`` wrote; raises DamagedError, or any error of a damaged pickle or archive."""
    if not data.startswith(b"PK"):
        return _load_bare(io.BytesIO(data))
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = set(archive.namelist())
    root = next((name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("data.pkl")), None)
    if root is None:
        raise DamagedError("no data.pkl")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in names else b"little"
    if order != b"little":
        raise DamagedError("written on a big-endian machine")

    def read(storage: Storage) -> bytes:
        member = archive.getinfo(f"{root}data/{storage.key}")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data):
            raise DamagedError("a compressed storage")
        return archive.read(member)

    return Contents(_Machine(io.BytesIO(archive.read(f"{root}data.pkl"))).load(), read)


def _load_bare(file: io.BytesIO) -> Contents:
    if _Machine(file).load() != _MAGIC or _Machine(file).load() != _PROTOCOL:
        raise DamagedError("a pickle, but not of torch.save")
    _Machine(file).load()  # sizes of the machine's types
    machine = _Machine(file)
    root, keys = machine.load(), _Machine(file).load()
    found: dict[str, bytes] = {}
    for key in keys:
        storage = machine.storages[key]
        size = int.from_bytes(file.read(8), "little") * _itemsize(storage.dtype)
        found[key] = file.read(size)
        if len(found[key]) != size:
            raise DamagedError("ends within a storage")
    return Contents(root, lambda storage: found[storage.key])


def _itemsize(dtype: str) -> int:
    if dtype not in _DTYPES:
        raise DamagedError(f"storages of {dtype}")
    return 2 if dtype == "bfloat16" else np.dtype(_DTYPES[dtype]).itemsize


# ---- what the machine may build ----


def _mapping(*arguments: Any) -> dict[Any, Any]:
    """An OrderedDict or defaultdict. Its items come as a list here, or later one by one."""
    pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
    return {key: value for key, value in pairs if _is_key(key)}


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        return Tensor(None, odd="a tensor of an unknown storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise DamagedError("a tensor of impossible sizes")
    odd = "" if math.prod(size) <= MAX_ELEMENTS else "too large"
    return Tensor(storage, offset, tuple(size), tuple(stride), odd)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _from_type(builder: Any = None, _kind: Any = None, arguments: Any = (), *_: Any) -> Any:
    """A tensor with attributes or of a class of its own, by what it is built from."""
    if isinstance(builder, Global) and builder.name in _BUILDERS and builder.name != _FROM_TYPE:
        return _BUILDERS[builder.name](*arguments)
    return Tensor(None, odd="a tensor of a class of its own")


def _size(*arguments: Any) -> tuple[Any, ...]:
    return tuple(arguments[0]) if arguments and isinstance(arguments[0], (list, tuple)) else ()


_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": lambda *_: {},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
    _FROM_TYPE: _from_type,
    "torch.Size": _size,
}


def _is_key(value: Any) -> bool:
    """Whether a value may be a dict's key: nothing that a file builds is hashed."""
    return value is None or isinstance(value, (str, int, float))


class _Machine(pickle._Unpickler):  # in Python, not in C, so that memory follows the size of the file
    """The pickle machine with inert globals. Opcodes that are not in its table raise KeyError."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    readline: Callable[[], bytes]

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        return Global(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":
            return pid[1]  # the class of a module, with its source text
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], Global):
            raise DamagedError("a reference of an unknown kind")
        name = pid[1].name.rpartition(".")[2].removesuffix("Storage").lower()
        if len(pid) > 5 and pid[5] is not None:
            raise DamagedError("a view of a storage")
        key = str(pid[2])
        self.storages[key] = Storage(name, key, int(pid[4]))
        return self.storages[key]

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        name = function.name if isinstance(function, Global) else "?"
        if name in _BUILDERS:
            self.append(_BUILDERS[name](*arguments))
        elif name.startswith("torch._utils._rebuild_"):
            self.append(Tensor(None, odd=name.removeprefix("torch._utils._rebuild_")))
        else:
            self.append(Foreign(name))

    def _new(self) -> None:
        self.stack.pop()
        self._append_foreign(self.stack.pop())

    def _new_ex(self) -> None:
        self.stack.pop()
        self._new()

    def _inst(self) -> None:
        module, name = (self.readline()[:-1].decode("utf-8", "replace") for _ in range(2))
        self.pop_mark()
        self.append(Foreign(f"{module}.{name}"))

    def _obj(self) -> None:
        arguments = self.pop_mark()
        self._append_foreign(arguments[0] if arguments else None)

    def _append_foreign(self, kind: Any) -> None:
        self.append(Foreign(kind.name if isinstance(kind, Global) else "?"))

    def _build(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        if isinstance(instance, Foreign):
            instance.state = state

    def _set(self, target: Any, items: list[Any]) -> None:
        mapping = target.items if isinstance(target, Foreign) else target
        if isinstance(mapping, dict):
            mapping.update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if _is_key(k))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def _dict(self) -> None:
        items, made = self.pop_mark(), dict[Any, Any]()
        self._set(made, items)
        self.append(made)

    def _append_one(self) -> None:
        value = self.stack.pop()
        if isinstance(self.stack[-1], list):
            self.stack[-1].append(value)

    def _append_all(self) -> None:
        values = self.pop_mark()
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def _list_of_marked(self) -> None:
        """A frozenset, as a list: nothing in it is hashed."""
        values = self.pop_mark()  # gives the stack another "append"
        self.append(values)

    def _empty_list(self) -> None:
        self.append([])

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    for _name in ("EXT1", "EXT2", "EXT4", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER"):
        del dispatch[getattr(pickle, _name)[0]]
    for _opcode, _method in (
        (pickle.REDUCE, _reduce),
        (pickle.NEWOBJ, _new),
        (pickle.NEWOBJ_EX, _new_ex),
        (pickle.INST, _inst),
        (pickle.OBJ, _obj),
        (pickle.BUILD, _build),
        (pickle.SETITEM, _set_item),
        (pickle.SETITEMS, _set_items),
        (pickle.DICT, _dict),
        (pickle.APPEND, _append_one),
        (pickle.APPENDS, _append_all),
        (pickle.ADDITEMS, _append_all),
        (pickle.EMPTY_SET, _empty_list),
        (pickle.FROZENSET, _list_of_marked),
    ):
        dispatch[_opcode[0]] = _method
