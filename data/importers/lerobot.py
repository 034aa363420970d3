"""LeRobot datasets, versions 2 and 3: Parquet tables of numbers, and videos of images.

Layout: https://huggingface.co/docs/lerobot/lerobot-dataset-v3. Read with pyarrow and PyAV, because the package `lerobot` needs
Python 3.12. Columns keep their names, such as `observation.state`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hiwm.data.columns import DatasetError
from hiwm.data.importers.episodes import Episode

NAME = "LeRobot"
OWN = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # of the format, no data


def recognises(path: Path) -> bool:
    """Whether the path is the folder of a LeRobot dataset."""
    return (path / "meta" / "info.json").is_file()


def episodes(path: Path) -> Iterator[Episode]:
    """One episode at a time; every numeric feature and every video is a column."""
    info = json.loads((path / "meta" / "info.json").read_text())
    version = str(info.get("codebase_version", "")).lstrip("v")
    if not version.startswith(("2", "3")):
        raise DatasetError(f"{path}: codebase_version is {info.get('codebase_version')!r}; expected v2 or v3")
    features = info["features"]
    videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
    images = [name for name, feature in features.items() if feature["dtype"] == "image"]
    kinds = ("string", "video", "image")
    numbers = [name for name, feature in features.items() if feature["dtype"] not in kinds and name not in OWN]
    where = _third(path, info) if version.startswith("3") else _second(path, info)
    for index, chunk, file, spans in where:
        rows = _table(_inside(path, chunk), index, [*numbers, *images])
        episode = {name: _numbers(rows[name], features[name]) for name in numbers}
        episode |= {name: _pictures(rows[name]) for name in images}
        length = len(next(iter(rows.values())))
        for name in videos:
            episode[name] = _frames(_inside(path, file(name)), spans[name], length, info["fps"])
        yield episode


def _second(path: Path, info: dict[str, Any]) -> Iterator[tuple]:
    """Version 2: every episode has its own table and videos."""
    for index in range(info["total_episodes"]):
        place = {"episode_chunk": index // info["chunks_size"], "episode_index": index}
        spans = dict.fromkeys(info["features"], 0.0)
        yield (
            index,
            info["data_path"].format(**place),
            lambda name, place=place: info["video_path"].format(video_key=name, **place),
            spans,
        )


def _third(path: Path, info: dict[str, Any]) -> Iterator[tuple]:
    """Version 3: files hold many episodes; `meta/episodes` says where each one is."""
    import pyarrow.parquet as parquet

    for table in sorted((path / "meta" / "episodes").glob("*/*.parquet")):
        for row in parquet.read_table(table).to_pylist():
            place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
            spans = {k.split("/")[1]: v for k, v in row.items() if k.endswith("/from_timestamp")}

            def file(name: str, row: dict[str, Any] = row) -> str:
                at = {part: row[f"videos/{name}/{part}"] for part in ("chunk_index", "file_index")}
                return info["video_path"].format(video_key=name, **at)

            yield row["episode_index"], info["data_path"].format(**place), file, spans


def _inside(path: Path, name: str) -> Path:
    """A file of the dataset; refuses a name that leads out of its folder."""
    file = path / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise DatasetError(f"{path}: meta/info.json names the file {name!r}; expected a file of this folder")
    return file


def _table(path: Path, index: int, names: list[str]) -> dict[str, Any]:
    """Columns of one episode of a table, in the order of its frames."""
    import pyarrow.parquet as parquet

    with path.open("rb") as file:  # not by its path, whose folders pyarrow would take for columns
        table = parquet.read_table(file, columns=[*names, "frame_index"], filters=[("episode_index", "=", index)])
    order = np.argsort(table["frame_index"].to_numpy(), kind="stable")
    return {name: table[name].take(order) for name in [*names, "frame_index"]}


def _numbers(column: Any, feature: dict[str, Any]) -> np.ndarray:
    shape = tuple(feature["shape"])
    flat = np.asarray(column.to_pylist(), dtype=feature["dtype"])
    return flat.reshape(len(column), *shape)


def _pictures(column: Any) -> np.ndarray:
    import io

    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in column.to_pylist()])


def _frames(path: Path, start: float, number: int, fps: float) -> np.ndarray:
    """Frames of a video from a time in seconds on, (number, H, W, 3) bytes."""
    try:
        import av  # an optional package
    except ImportError as error:
        raise DatasetError(f"{path} needs the package av. Install it: pip install 'hiwm[data]'") from error
    frames = []
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        if start > 0:
            video.seek(int((start - 0.5 / fps) / float(stream.time_base)), stream=stream)
        for frame in video.decode(stream):
            if frame.time is None or frame.time < start - 0.5 / fps:
                continue
            frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == number:
                return np.stack(frames)
    raise DatasetError(f"{path} has {len(frames)} frames from second {start:g} on; expected {number}")
