"""The commands `hiwm data check` and `hiwm data convert`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hiwm.config import load_config
from hiwm.console import say
from hiwm.data.columns import DatasetError, blocks
from hiwm.data.importers import Episode, read_episodes, recognise
from hiwm.data.store import Trajectories, Writer, open_dataset
from hiwm.training.windows import check_windows


def check(path: str, overrides: Sequence[str] = ()) -> None:
    """Print what a dataset holds, and refuse it if a column that is a number per row is NaN or infinite.

    Args:
        path: the file.
        overrides: a configuration as for `hiwm train`, whose levels the episodes have to be long enough for.

    Raises:
        DatasetError: the file cannot be opened, or holds NaN or infinity.
    """
    dataset = open_dataset(path)
    lengths = dataset.ep_len
    print(
        f"{path}: {len(lengths):,} episodes, {dataset.num_steps:,} rows; an episode has {lengths.min():,} to {lengths.max():,} "
        f"rows, median {np.median(lengths):,g}"
    )
    print(f"\n{'column':<24}{'stored as':<26}{'read as':<24}{'mean':>11}{'std':>11}{'min':>11}{'max':>11}")
    for name in sorted(dataset.columns):
        print(_row(dataset, name))
    for name, reason in sorted(dataset.unusable.items()):
        print(f"{name:<24}not used: it {reason}")
    print(f"\nfingerprint: {dataset.fingerprint}")
    stored = dataset.metadata.get("fingerprint")
    if stored is not None and stored != dataset.fingerprint:
        print(f"the file says {stored}: it was changed since it was written, or written by another version")
    if overrides:
        _print_windows(dataset, overrides)
    dataset.checked(dataset.columns)
    print("all numbers are finite")


def _row(dataset: Trajectories, name: str) -> str:
    stored, column = dataset.columns[name], dataset.column(name)
    how = f"{stored.dtype} {tuple(stored.shape[1:])}"
    read = f"{column.dtype} {tuple(column.shape[1:])}"
    if 0 in column.shape:
        return f"{name:<24}{how:<26}{read:<24}{'no numbers':>11}"
    mean, std = (float(np.mean(numbers)) for numbers in dataset.statistics(name))
    ranges = [(block.min(), block.max()) for block in blocks(column)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    return f"{name:<24}{how:<26}{read:<24}{mean:>11.4g}{std:>11.4g}{low:>11.4g}{high:>11.4g}"


def _print_windows(dataset: Trajectories, overrides: Sequence[str]) -> None:
    print()
    for window in check_windows(load_config(list(overrides)).hierarchy, dataset):
        print(
            f"level {window.level}: a window of {window.rows} rows fits into {100 * window.episodes:.0f} % of the episodes and can "
            f"begin at {100 * window.starts:.0f} % of the rows"
        )


def convert(source: str, target: str) -> None:
    """Write a dataset of another format as a file that hiwm and stable-worldmodel open.

    Args:
        source: a file or a folder, in a format of `hiwm.data.importers`, or a dataset that opens but is compressed.
        target: the `.h5` file to write.

    Raises:
        DatasetError: the source has no known format, or the target is there already.
    """
    path, out = Path(source), Path(target)
    if out.exists():
        raise DatasetError(f"{out} is there already; expected the name of a new file. Remove it or give another name")
    if out.suffix != ".h5":
        raise DatasetError(f"{out} is not the name of an HDF5 file; expected one that ends in .h5")
    episodes = read_episodes(path) if recognise(path) else _episodes(open_dataset(path))
    out.parent.mkdir(parents=True, exist_ok=True)
    with Writer(out, {"source": path.name}) as writer:
        for episode in episodes:
            writer.append(episode)
    made = open_dataset(out)
    say(f"{out}: {len(made.ep_len):,} episodes, {made.num_steps:,} rows, columns {', '.join(sorted(made.columns))}")


def _episodes(dataset: Trajectories) -> Iterator[Episode]:
    for first, length in zip(dataset.ep_offset.tolist(), dataset.ep_len.tolist(), strict=True):
        yield {name: np.asarray(column[first : first + length]) for name, column in dataset.columns.items()}
