"""Damages small datasets with fixed seeds and opens them; `test_mutations` runs it in a process of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from test_store import make_episodes, write, write_as_stable_worldmodel

from hiwm.data.store import DatasetError, Trajectories, open_dataset

ROWS = 17
Change = Callable[[Path], None]


def run(folder: str) -> dict[str, int]:
    """Damage and open every file; how many were refused, opened without a column, or opened as h5py reads them."""
    counts: Counter[str] = Counter()
    for i, (name, change) in enumerate(mutations()):
        path = Path(folder) / f"mutant{i}.h5"
        (write, write_as_stable_worldmodel, compressed)[i % 3](path, make_episodes(seed=i))
        change(path)
        print(i, name, flush=True)  # a crash shows which it was
        try:
            dataset = open_dataset(path)
            for column in dataset.columns:
                dataset.column(column)[[0, dataset.num_steps - 1]]
            assert len(dataset.fingerprint) == 16
        except DatasetError as error:
            if path.name not in str(error):
                raise AssertionError(f"{name}: the error names no file: {error}") from error
            counts["refused"] += 1
            continue
        compare(path, dataset, name)
        counts["left out" if dataset.unusable else "right"] += 1
    return dict(counts)


def compressed(path: Path, episodes: list) -> Path:
    return write_as_stable_worldmodel(path, episodes, "gzip")


def compare(path: Path, dataset: Trajectories, name: str) -> None:
    """Whether every column holds what h5py reads, episode by episode."""
    with h5py.File(path, "r") as file:
        lengths, offsets = (np.ravel(file[index][()]).astype(np.int64) for index in ("ep_len", "ep_offset"))
        rows = np.concatenate([np.arange(o, o + n) for o, n in zip(offsets, lengths, strict=True)])
        assert dataset.num_steps == len(rows), name
        for column in dataset.columns:
            stored = file[column.replace(".", "/")][()][rows]
            np.testing.assert_array_equal(np.asarray(dataset.columns[column][:]), stored, err_msg=name)
        dataset.checked([])


def mutations() -> Iterator[tuple[str, Change]]:
    """Name and damage of every file."""
    for seed in range(120):
        yield f"flipped bytes {seed}", lambda path, seed=seed: flip(path, seed)
    for share in np.linspace(0, 0.999, 40):
        yield f"cut to {share:.3f}", lambda path, share=share: cut(path, share)
    for where in np.linspace(0, 1, 20):
        yield f"a block of zeros at {where:.2f}", lambda path, where=where: blank(path, where)
    for name, change in STRUCTURE.items():
        for target in ("state", "action", "pixels"):
            yield f"{name} in {target}", lambda path, change=change, target=target: edit(path, change, target)
    for name, change in INDEX.items():
        for target in ("ep_len", "ep_offset"):
            yield f"{name} in {target}", lambda path, change=change, target=target: edit(path, change, target)


def flip(path: Path, seed: int) -> None:
    rng, data = np.random.default_rng(seed), bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 30))):
        data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def blank(path: Path, where: float) -> None:
    data = path.read_bytes()
    start = int(where * (len(data) - 64))
    path.write_bytes(data[:start] + bytes(64) + data[start + 64 :])


def edit(path: Path, change: Callable[[h5py.File, str], None], name: str) -> None:
    with h5py.File(path, "r+", libver="latest") as file:
        change(file, name)


def retype(kind: str) -> Callable[[h5py.File, str], None]:
    return lambda file, name: replace(file, name, file[name][()].astype(kind))


def replace(file: h5py.File, name: str, values: object, **more: object) -> None:
    if name in file:
        del file[name]
    file.create_dataset(name, data=values, **more)


def nan(file: h5py.File, name: str) -> None:
    values = file[name][()].astype(float)
    values.reshape(-1)[::5] = [np.nan, np.inf, -np.inf][values.size % 3]
    replace(file, name, values)


def link(target: str, made: type = h5py.SoftLink) -> Callable[[h5py.File, str], None]:
    def change(file: h5py.File, name: str) -> None:
        del file[name]
        file[name] = made(target) if made is h5py.SoftLink else h5py.ExternalLink("/etc/passwd", target)

    return change


STRUCTURE = {
    **{f"type {kind}": retype(kind) for kind in ("f8", ">f4", "f2", "i8", "u2", "?", "c8", "S5", ">i4")},
    "text": lambda f, n: replace(f, n, ["a"] * ROWS, dtype=h5py.string_dtype()),
    "bytes as text": lambda f, n: replace(f, f"{n}.text", [b"\\xff\\xfe"] * ROWS, dtype=h5py.string_dtype("ascii")),
    "references": lambda f, n: replace(f, n, np.full(ROWS, f.ref), dtype=h5py.ref_dtype),
    "one row fewer": lambda f, n: replace(f, n, f[n][:-1]),
    "no rows": lambda f, n: replace(f, n, f[n][:0]),
    "more rows": lambda f, n: replace(f, n, np.concatenate([f[n][()]] * 2)),
    "no elements": lambda f, n: replace(f, n, np.zeros((ROWS, 0))),
    "one value": lambda f, n: replace(f, n, 3.0),
    "nothing": lambda f, n: replace(f, n, h5py.Empty("f4")),
    "NaN": nan,
    "no dimension": lambda f, n: replace(f, n, f[n][()].reshape(ROWS, -1)[:, 0]),
    "a group": lambda f, n: replace(f, f"{n}2/inner", np.zeros((ROWS, 2))),
    "a group of its name": lambda f, n: f.move(n, "moved") or f.create_group(n),
    "an odd name": lambda f, n: f.move(n, "..\\n[/red]<b>"),
    "a long name": lambda f, n: f.move(n, n * 200),
    "a link": lambda f, n: f.__setitem__("alias", h5py.SoftLink(f"/{n}")),
    "a link to itself": lambda f, n: link(f"/{n}")(f, n),
    "a link to nothing": link("/nowhere"),
    "a link to a folder above": link("../../etc"),
    "a link to another file": link("/state", h5py.ExternalLink),
    "a claim of a huge size": lambda f, n: f.create_dataset(f"{n}3", (10**14, 10), "f4", chunks=(1, 10)),
    "never written": lambda f, n: f.create_dataset(f"{n}4", (ROWS, 2), "f4"),
    "a compound": lambda f, n: replace(f, n, np.zeros(ROWS, [("a", "f4"), ("b", "O")]), dtype=[("a", "f4")]),
    "odd attributes": lambda f, n: f.attrs.update({"environment": "[" * 10_000, "x": h5py.Empty("f4"), n: "{"}),
    "no such column": lambda f, n: f.__delitem__(n),
}
INDEX = {
    **{f"type {kind}": retype(kind) for kind in ("u8", "f8", "f2", "i1", "S3", "c8")},
    "minus one": lambda f, n: f[n].__setitem__(1, -1),
    "a huge number": lambda f, n: f[n].__setitem__(2, 2**31 - 1),
    "zero": lambda f, n: f[n].__setitem__(0, 0),
    "one fewer": lambda f, n: replace(f, n, f[n][:-1]),
    "none": lambda f, n: replace(f, n, f[n][:0]),
    "two dimensions": lambda f, n: replace(f, n, f[n][()].reshape(2, 2)),
    "a column": lambda f, n: replace(f, n, f[n][()].reshape(4, 1)),
    "NaN": nan,
    "text": lambda f, n: replace(f, n, ["a"] * 4, dtype=h5py.string_dtype()),
    "one value": lambda f, n: replace(f, n, 4),
    "nothing": lambda f, n: replace(f, n, h5py.Empty("i4")),
    "a group": lambda f, n: f.move(n, "old") or f.create_group(n),
    "a huge size": lambda f, n: f.__delitem__(n) or f.create_dataset(n, (10**13,), "i8", chunks=(10**4,)),
    "a link to another file": link("/state", h5py.ExternalLink),
    "shuffled": lambda f, n: replace(f, n, f[n][()][[2, 0, 3, 1]]),
    "missing": lambda f, n: f.__delitem__(n),
}
