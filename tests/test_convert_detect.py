"""The table of checkpoints: a converter or a reader that nobody entered in it is found here."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

from fcntag.convert import custom, detect, families, readers
from fcntag.convert.families import common, statistics
from fcntag.errors import ModelError

# Modules that serve the converters, and are none.
SHARED = {common.__name__, statistics.__name__}


def modules_of(package: ModuleType) -> list[ModuleType]:
    found = [
        importlib.import_module(f"{package.__name__}.{item.name}") for item in pkgutil.iter_modules(package.__path__)
    ]
    assert len(found) >= 4
    return found


def entered() -> list[ModuleType]:
    return [converter for kind in detect.KINDS for converter in kind.converters]


def test_every_family_is_in_a_row() -> None:
    for module in modules_of(families):
        assert module.__name__ in SHARED or module in entered(), f"convert/detect.py: no row has {module.__name__}"


@pytest.mark.parametrize("converter", {c.__name__: c for c in entered()}.values(), ids=lambda c: c.__name__)
def test_a_converter_has_what_the_table_asks_for(converter: ModuleType) -> None:
    assert isinstance(converter.NETWORK, str)
    assert converter.NETWORK
    assert all(callable(getattr(converter, name)) for name in ("matches", "family", "build"))


def test_the_rows_make_every_model_that_a_checkpoint_can_be_and_each_by_one_converter() -> None:
    made = [name for converter in {c.__name__: c for c in entered()}.values() for name in converter.MODELS]
    assert sorted(made) == sorted(detect.families())


def test_every_reader_is_used() -> None:
    """By a row's function, by the conversion of networks of one's own, or by another reader."""
    sources = [custom, detect, *modules_of(readers)]
    used = {
        getattr(value, "__module__", None)
        for module in sources
        for value in vars(module).values()
        if getattr(value, "__module__", module.__name__) != module.__name__
    }
    for reader in modules_of(readers):
        assert reader.__name__ in used, f"nothing reads files by {reader.__name__}"


def test_the_message_about_an_unknown_file_lists_every_kind(tmp_path) -> None:
    path = tmp_path / "checkpoint.bin"
    path.write_bytes(b"neither of them")
    with pytest.raises(ModelError) as caught:
        detect.convert_source(path, None, None)
    for kind in detect.KINDS:
        assert kind.about in str(caught.value)
