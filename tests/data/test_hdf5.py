"""Files of other writers: what opens, what is left out, and what is refused by name."""

import os
import pickle
import time

import h5py
import hdf5plugin
import numpy as np
import pytest
from test_store import make_episodes, write

from hiwm.data.columns import CompressedColumn, FramedColumn
from hiwm.data.hdf5 import open_column
from hiwm.data.store import DatasetError, open_dataset
from hiwm.data.views import GatheredColumn

ROWS = 17


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "data.h5", make_episodes())


@pytest.fixture
def other(tmp_path):
    return write(tmp_path / "other.h5", make_episodes(seed=1))


def changed(path, change):
    with h5py.File(path, "r+", libver="latest") as file:
        change(file)
    return path


def virtual(file, name, source, column="state"):
    layout = h5py.VirtualLayout((ROWS, 3), "f4")
    layout[:] = h5py.VirtualSource(source, column, (ROWS, 3))
    file.create_virtual_dataset(name, layout)


def external(file, other):
    file["leak"] = h5py.ExternalLink(other, "/state")


def through_a_group(file, other):
    file["door"] = h5py.ExternalLink(other, "/")
    file["leak"] = h5py.SoftLink("/door/state")


OUTSIDE = {
    "external link": external,
    "soft link through an external one": through_a_group,
    "external storage": lambda file, other: file.create_dataset("leak", (ROWS,), "u1", external=[(other, 0, ROWS)]),
    "virtual dataset": lambda file, other: virtual(file, "leak", other),
}


@pytest.mark.parametrize("how", OUTSIDE)
def test_bytes_of_other_files_are_refused_by_name(path, other, how):
    changed(path, lambda file: OUTSIDE[how](file, str(other)))
    with pytest.raises(DatasetError, match=r"data\.h5: .*'(leak|door)'.*other\.h5.*expected a dataset of this file"):
        open_dataset(path)


def test_links_and_virtual_datasets_within_the_file_are_columns(path):
    def change(file):
        file["same"] = h5py.SoftLink("/state")
        virtual(file, "copy", ".")

    dataset = open_dataset(changed(path, change))
    for name in ("same", "copy"):
        np.testing.assert_array_equal(dataset.column(name)[:], dataset.column("state")[:])


def test_a_link_behind_a_virtual_dataset_is_not_followed(path, tmp_path):
    """Its name comes first in the file, so that nothing else refuses the link before."""

    def change(file):
        file["leak"] = h5py.ExternalLink(str(tmp_path / "nowhere.h5"), "/state")
        virtual(file, "copy", ".", "leak")

    with pytest.raises(DatasetError, match=r"data\.h5: 'copy' is a link to another file, '.*nowhere\.h5'"):
        open_dataset(changed(path, change))


@pytest.mark.parametrize("number", [9, 10])
def test_virtual_datasets_of_virtual_datasets_are_followed_eight_times(path, number):
    def change(file):
        for i in range(number):
            virtual(file, f"copy{i}", ".", f"copy{i - 1}" if i else "state")

    changed(path, change)
    if number == 9:
        np.testing.assert_array_equal(open_dataset(path).column("copy8")[:], open_dataset(path).column("state")[:])
        return
    with pytest.raises(DatasetError, match=r"data\.h5: 'copy9' leads through more than 8 other virtual datasets"):
        open_dataset(path)


def test_virtual_datasets_in_layers_are_opened_soon(path):
    """Through seven layers of six, a column leads to the rows in 46 656 ways."""

    def change(file):
        below = ["state"] * 6
        for layer in range(7):
            for i in range(6):
                layout = h5py.VirtualLayout((ROWS, 3), "f4")
                for row, source in enumerate(below):
                    layout[row] = h5py.VirtualSource(".", source, (ROWS, 3))[row]
                file.create_virtual_dataset(f"layer{layer}.{i}", layout)
            below = [f"layer{layer}.{i}" for i in range(6)]

    changed(path, change)
    started = time.monotonic()
    assert "layer6.5" in open_dataset(path).columns
    assert time.monotonic() - started < 10


def test_a_virtual_dataset_of_itself_is_refused(path):
    changed(path, lambda file: virtual(file, "copy", ".", "copy"))
    with pytest.raises(DatasetError, match=r"data\.h5: 'copy' leads through more than 8 other virtual datasets"):
        open_dataset(path)


@pytest.mark.parametrize("stored", ["<f4", ">f4"])
def test_a_contiguous_column_that_ends_after_the_end_of_the_file_is_refused(path, tmp_path, stored):
    """Newer versions of HDF5 do not open such a dataset, so the column and the shorter file are given apart."""
    changed(path, lambda file: file.create_dataset("last", data=np.zeros((ROWS, 3)), dtype=stored))
    short = tmp_path / "short.h5"
    with h5py.File(path) as file:
        end = file["last"].id.get_offset() + file["last"].id.get_storage_size()
        short.write_bytes(path.read_bytes()[: end - 1])
        with pytest.raises(DatasetError, match=r"short\.h5 is truncated: column '/last' ends after the end"):
            open_column(short, file["last"])


@pytest.mark.parametrize("target", ["/leak", "/nowhere", "/state/deeper"])
def test_links_to_nothing_are_refused(path, target):
    changed(path, lambda file: file.__setitem__("leak", h5py.SoftLink(target)))
    with pytest.raises(DatasetError, match=r"data\.h5: 'leak' is a link that leads nowhere"):
        open_dataset(path)


def group_in_itself(file):
    group = file.create_group("group")
    group["again"] = group


def layers_of_hard_links(file):
    group = file.create_group("group")
    for _ in range(7):
        below, group = group, group.create_group("layer")
        for i in range(6):
            below[f"again{i}"] = group
    group["numbers"] = np.zeros((ROWS, 1), np.float32)


def layers_of_soft_links(file):
    for i in range(7):
        group = file.create_group(f"group{i}")
        for j in range(6 if i < 6 else 0):
            group[f"again{j}"] = h5py.SoftLink(f"/group{i + 1}")


@pytest.mark.parametrize("change", [group_in_itself, layers_of_hard_links, layers_of_soft_links])
def test_a_group_of_two_names_is_refused(path, change):
    """Links in layers make millions of columns of a file of a few kilobytes."""
    started = time.monotonic()
    with pytest.raises(DatasetError, match=r"data\.h5: 'group.*again.*' is a group that has another name too"):
        open_dataset(changed(path, change))
    assert time.monotonic() - started < 5


def test_a_group_in_more_than_eight_groups_is_refused(path):
    with pytest.raises(DatasetError, match=r"data\.h5.*lies in more than 8 groups"):
        open_dataset(changed(path, lambda file: file.create_group("/".join("abcdefghi"))))


def test_a_column_of_two_names_is_two_columns(path):
    dataset = open_dataset(changed(path, lambda file: file.__setitem__("same", file["state"])))
    np.testing.assert_array_equal(dataset.column("same")[:], dataset.column("state")[:])


UNUSABLE = {
    "text": ({"data": ["push"] * ROWS, "dtype": h5py.string_dtype()}, "holds text"),
    "fixed text": ({"data": np.full(ROWS, b"push")}, "holds text"),
    "references": ({"shape": ROWS, "dtype": h5py.ref_dtype}, "holds text or references"),
    "ragged": ({"shape": ROWS, "dtype": h5py.vlen_dtype(np.float32)}, "holds text or references"),
    "compound": ({"data": np.zeros(ROWS, [("a", "f4"), ("b", "i2")])}, "has the type"),
    "complex": ({"data": np.zeros(ROWS, "c8")}, "has the type complex64"),
    "one value": ({"data": 30.0}, "is a single value"),
    "too few rows": ({"data": np.zeros(4)}, "has 4 rows, but the episodes need 17"),
    "never written": ({"shape": (ROWS, 2), "dtype": "f4"}, "was never written"),
    "sparse": (
        {"shape": (10**12, 9), "dtype": "f4", "chunks": (100, 9)},
        "is incomplete: .* chunks were never written",
    ),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_column_without_numbers_does_not_block_the_file(path, kind):
    created, reason = UNUSABLE[kind]
    before = open_dataset(path).fingerprint
    dataset = open_dataset(changed(path, lambda file: file.create_dataset("task", **created)))
    assert set(dataset.columns) == set(make_episodes()[0])
    assert dataset.fingerprint == before
    with pytest.raises(DatasetError, match=rf"data\.h5: column 'task' {reason}"):
        dataset.column("task")
    with pytest.raises(DatasetError, match=r"data\.h5: there is no column 'other'"):
        dataset.column("other")


def test_an_action_without_numbers_blocks_the_file(path):
    def change(file):
        del file["action"]
        file.create_dataset("action", data=["left"] * ROWS, dtype=h5py.string_dtype())

    with pytest.raises(DatasetError, match=r"data\.h5: column 'action' holds text"):
        open_dataset(changed(path, change))


@pytest.mark.parametrize("name", ["../leak", "..", ".hidden", "a[red]b", "x" * 101, "a\nb"])
def test_names_that_are_not_plain_are_left_out(path, name):
    def change(file):  # a slash makes groups, and HDF5 stores any name
        file.create_dataset(name.encode(), data=np.zeros((ROWS, 2), np.float32))

    dataset = open_dataset(changed(path, change))
    assert set(dataset.columns) == set(make_episodes()[0])
    assert len(dataset.unusable) == 1


def test_groups_become_dotted_names(path):
    values = np.arange(2.0 * ROWS).reshape(ROWS, 2)
    dataset = open_dataset(changed(path, lambda file: file.create_dataset("observation/arm/angles", data=values)))
    np.testing.assert_array_equal(dataset.column("observation.arm.angles")[:], values)


FILTERS = {
    "gzip": {"compression": "gzip"},
    "shuffle and checksum": {"shuffle": True, "fletcher32": True},
    "Blosc": hdf5plugin.Blosc(cname="zstd"),
    "Zstandard": hdf5plugin.Zstd(),
    "none": {},
}


@pytest.mark.parametrize("chunk_rows", [1, 5, 17, 40])
@pytest.mark.parametrize("filters", FILTERS)
def test_chunked_columns_are_read_when_they_are_asked_for(path, tmp_path, filters, chunk_rows):
    wanted, chunked = open_dataset(path), tmp_path / "chunked.h5"
    with h5py.File(path) as source, h5py.File(chunked, "w") as file:
        for name, column in source.items():
            more = {
                "chunks": (chunk_rows, *column.shape[1:]),
                "maxshape": (None, *column.shape[1:]),
                **FILTERS[filters],
            }
            file.create_dataset(name, data=column[:], **(more if name in wanted.columns else {}))
    dataset = open_dataset(chunked)
    kind = FramedColumn if filters == "none" else CompressedColumn
    assert all(isinstance(column, kind) for column in dataset.columns.values())
    assert dataset.fingerprint == wanted.fingerprint
    rows = np.random.default_rng(0).integers(-ROWS, ROWS, (6, 4))
    for name, column in dataset.columns.items():
        expected = np.asarray(wanted.columns[name])
        for index in (rows, slice(2, 15, 3), expected.reshape(ROWS, -1)[:, 0] > 0, 3, slice(None)):
            np.testing.assert_array_equal(column[index], expected[index])
        with pytest.raises(IndexError, match="out of bounds"):
            column[[0, ROWS]]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking beside torch's threads
def test_a_compressed_column_is_read_in_a_forked_and_in_a_spawned_process(path, tmp_path):
    chunked = tmp_path / "chunked.h5"
    with h5py.File(path) as source, h5py.File(chunked, "w") as file:
        for name in ("ep_len", "ep_offset", "action"):
            file[name] = source[name][:]
        file.create_dataset("state", data=source["state"][:], chunks=(5, 3), compression="gzip")
    column = open_dataset(chunked).columns["state"]
    expected = column[:2].copy()  # opens the file in this process
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(column[12:], open_dataset(path).columns["state"][12:]) else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(column))[:2], expected)


def test_a_file_that_was_replaced_is_not_read(path, tmp_path):
    chunked = tmp_path / "chunked.h5"
    opened = None
    for _ in range(2):
        with h5py.File(path) as source, h5py.File(tmp_path / "new.h5", "w") as file:
            for name in ("ep_len", "ep_offset", "action"):
                file[name] = source[name][:]
            file.create_dataset("state", data=source["state"][:], chunks=(5, 3), compression="gzip")
        (tmp_path / "new.h5").replace(chunked)
        opened = opened or open_dataset(chunked)
    with pytest.raises(DatasetError, match=r"chunked\.h5 has changed since it was opened"):
        opened.column("state")[0]


def retype(file, kind):
    for name in ("ep_len", "ep_offset"):
        values = file[name][:]
        del file[name]
        file[name] = values.astype(kind)


@pytest.mark.parametrize("kind", ["uint64", "float64", "int8"])
def test_the_index_may_have_any_type(path, kind):
    assert open_dataset(changed(path, lambda file: retype(file, kind))).ep_len.tolist() == [5, 1, 8, 3]


def test_episodes_may_be_empty_apart_and_in_any_order(path):
    whole = open_dataset(path)

    def change(file):
        for name, values in (("ep_len", [4, 0, 3, 1]), ("ep_offset", [6, 2, 0, 16])):
            del file[name]
            file[name] = values

    dataset = open_dataset(changed(path, change))
    assert dataset.ep_len.tolist() == [4, 3, 1]
    assert dataset.ep_offset.tolist() == [0, 4, 7]
    assert isinstance(dataset.column("state"), GatheredColumn)
    rows = [6, 7, 8, 9, 0, 1, 2, 16]
    np.testing.assert_array_equal(dataset.column("state")[:], np.asarray(whole.column("state"))[rows])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("ep_offset", [0, 3, 6, 14], "puts episodes 0 and 1 into the same rows"),
        ("ep_len", [5, -1, 8, 3], "ep_len is -1 for episode 1; expected a whole number"),
        ("ep_len", [5, 1.5, 8, 3], "ep_len is 1.5 for episode 1"),
        ("ep_len", [5, np.nan, 8, 3], "ep_len is nan for episode 1"),
        ("ep_len", [5, 1, 8], "ep_len has 3 entries and ep_offset has 4"),
        ("ep_len", [[5, 1], [8, 3]], r"ep_len is an array \(2, 2\)"),
        ("ep_len", [0, 0, 0, 0], "holds no episodes"),
        ("ep_len", [b"5", b"1", b"8", b"3"], "'/ep_len' is an array"),
        ("ep_offset", np.array([0, 5, 6, 2**63 + 14], np.uint64), "ep_offset is 9223372036854775822 for episode 3"),
    ],
)
def test_a_wrong_index_is_refused(path, name, values, message):
    def change(file):
        del file[name]
        file[name] = values

    with pytest.raises(DatasetError, match=rf"data\.h5.*{message}"):
        open_dataset(changed(path, change))


@pytest.mark.parametrize("kind", ["fifo", "directory", "empty"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "odd.h5"
    {"fifo": os.mkfifo, "directory": os.mkdir, "empty": lambda path: path.touch()}[kind](path)
    with pytest.raises(DatasetError, match=r"odd\.h5"):
        open_dataset(path)
