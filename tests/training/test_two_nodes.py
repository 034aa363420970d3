"""Two machines, each with a torchrun of its own, on one network and one file system; here both are this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import tiny
import torch
from safetensors.torch import load_file

from hiwm.config import load_config
from hiwm.experiment import train


def test_two_nodes_train_the_weights_of_one_process(tiny_run, tmp_path):
    more = [f"dataset.path={tiny_run.config.dataset.path}", "tracking=none", "training.steps=8", "graph.num_nodes=20"]
    overrides = tiny.overrides(tmp_path / "two", *more)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MASTER_", "RANK", "WORLD_"))}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launch += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"127.0.0.1:{port}",
        "--rdzv-id",
        "two",
        "--local-addr",
        "127.0.0.1",
    ]
    nodes = [
        subprocess.Popen(
            [*launch, "-m", "hiwm", "train", *overrides], env=environment | {"OMP_NUM_THREADS": "1"}, cwd=tiny.ROOT,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]  # fmt: skip
    one = load_config(overrides).changed({"root": str(tmp_path / "one")})
    try:
        train(one)
        outputs = [node.communicate(timeout=180)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], outputs
    weights = sorted((one.folder / "hierarchy").glob("level*.safetensors"))
    assert len(weights) == 3
    for path in weights:
        mine, theirs = load_file(path), load_file(load_config(overrides).folder / "hierarchy" / path.name)
        for name in mine:
            assert torch.allclose(theirs[name], mine[name], rtol=1e-3, atol=1e-4), (path.name, name)
