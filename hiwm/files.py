"""Reading and writing of small files of plain values: YAML and JSON, with a checksum, one error for whatever is wrong."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hiwm.disk import replacing, sync

log = logging.getLogger("hiwm")

LEVELS = "levels"  # folder of all trained levels, in the root of the results
CHECKSUM = "sha256"  # key that holds the checksum of the rest of the file
LARGEST = 16 << 20  # bytes of a file; those of hiwm have some thousand
MOST_VALUES = 200_000  # values in a file, counted as often as they are referred to


class _Loader(yaml.SafeLoader):
    """Makes plain values only, and merges no mappings: `<<` can multiply a short file into more than memory holds."""

    def flatten_mapping(self, node: Any) -> None:
        """Leave `<<` as it is, which is then refused."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write a value that occurs twice twice."""
        return True


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; a value that refers to itself or to too many others is refused.

    Raises:
        ValueError: the file is missing or damaged, or holds something else than a mapping of plain values.
    """
    text = read_text(path)
    try:
        content = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not YAML of plain values: {_line(error)}") from error
    checksum = _plain_mapping(path, content).pop(CHECKSUM, None)
    _compare(path, checksum, re.sub(rf"^{CHECKSUM}: .*\n", "", text, flags=re.MULTILINE))
    return content


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values and a checksum, atomically."""
    text = yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False)
    write_text(path, f"{text}{CHECKSUM}: {digest(text)}\n")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; errors as in `read_yaml`."""
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {_line(error)}. Remove it and run the same command again") from error
    checksum = _plain_mapping(path, content).pop(CHECKSUM, None)
    _compare(path, checksum, json.dumps(content))
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values and a checksum, atomically."""
    plain = json.loads(json.dumps(content))
    write_text(path, json.dumps({**plain, CHECKSUM: digest(json.dumps(plain))}, indent=1))


def read_text(path: Path) -> str:
    """The text of a regular file of a reasonable size; a pipe, for instance, would never end."""
    if not path.is_file():
        raise ValueError(f"{path} is {'not a file' if path.exists() else 'missing'}; expected a file that hiwm wrote")
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path} has {size:,} bytes; expected at most {LARGEST:,}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {_line(error)}") from error


def write_text(path: Path, text: str) -> None:
    """Write the file, so that a crash or a full disk leaves the old one or the new one, complete."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def digest(text: str) -> str:
    """Hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def replace_folder(new: Path, folder: Path) -> None:
    """Put a complete folder in the place of another one.

    No call of an operating system exchanges two folders on every platform. So the old one is renamed, the new one takes
    its name, and the old one is removed. A crash between the two renames leaves the old one, complete, under the name that
    `saved_folder` also looks at, until the next save moves it back.
    """
    for path in new.iterdir():
        sync(path)
    sync(new)
    old = _old(folder)
    recover_folder(folder)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Undo or finish what an interrupted `replace_folder` left."""
    old = _old(folder)
    if old.exists():
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)


def saved_folder(folder: Path) -> Path:
    """Where the content of a folder lies: there, or under its other name if replacing it was interrupted."""
    old = _old(folder)
    return old if old.exists() and not folder.exists() else folder


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _compare(path: Path, checksum: Any, text: str) -> None:
    """People may change these files by hand, so a wrong checksum is a warning; a file without one is of an older version."""
    if checksum is not None and checksum != digest(text):
        log.warning("%s was changed after hiwm wrote it; results may differ from those of the saved one", path)


def _plain_mapping(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a mapping")
    waiting, number = [content], 0
    while waiting:
        value = waiting.pop()
        number += 1
        if number > MOST_VALUES:
            raise ValueError(f"{path} holds more than {MOST_VALUES:,} values; expected a file that hiwm wrote")
        if isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif not isinstance(value, (str, int, float, bool, type(None))):
            raise ValueError(f"{path} holds a {type(value).__name__}, {value!r:.100}; expected numbers and text only")
    return content


def _line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split())[:300]


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a command that was killed; only the command that holds the folder's lock may."""
    for path in folder.glob("*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def root_of(folder: Path, marks: Sequence[str]) -> Path:
    """The root of all results, from the folder of some: `<root>/<name>` or `<root>/<name>/<run>`; it has one of the `marks`."""
    parents = folder.resolve().parents[:2]
    return next((each for each in parents if any((each / mark).exists() for mark in marks)), parents[0])
