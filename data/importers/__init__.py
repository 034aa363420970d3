"""Importers of other dataset formats, one file each; `hiwm data convert` uses them.

An importer is a module with `NAME`, `recognises(path)`, which looks at names and headers alone, and `episodes(path)`, which yields
one episode at a time, column name -> (steps, ...).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from hiwm.data.columns import DatasetError
from hiwm.data.importers.episodes import Episode

FORMATS = ("minari", "d4rl", "lerobot")


def importer_of(path: Path) -> ModuleType | None:
    """The importer for a file or a folder; None for what opens without conversion, and for unknown formats."""
    modules = (import_module(f"hiwm.data.importers.{name}") for name in FORMATS)
    return next((module for module in modules if module.recognises(path)), None)


def recognise(path: Path) -> str | None:
    """The name of the format that a file or a folder has to be converted from; None if it has not."""
    module = importer_of(path)
    return None if module is None else module.NAME


def read_episodes(path: Path) -> Iterator[Episode]:
    """The episodes of a dataset that some importer recognises."""
    module = importer_of(path)
    if module is None:
        raise DatasetError(f"{path} has none of the formats that hiwm converts; expected one of {', '.join(FORMATS)}")
    try:
        yield from module.episodes(path)
    except DatasetError:
        raise
    except Exception as error:  # whatever other packages make of a damaged dataset
        raise DatasetError(
            f"{path} cannot be read as a {module.NAME} dataset ({type(error).__name__}: {error}). It may be damaged"
        ) from error
