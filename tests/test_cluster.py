"""The SLURM script of docs/cluster.md, with stand-ins for SLURM's own commands."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import tiny

from hiwm.training.checkpoint import CHECKPOINT, METRICS

SRUN = '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n'
TORCHRUN = f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n'
SCONTROL = '#!/bin/bash\nif [ "$1" = show ]; then echo localhost; else echo "$@" >> "$REQUEUED"; fi\n'


def script() -> str:
    blocks = [
        block for block in Path(tiny.ROOT, "docs/cluster.md").read_text().split("```bash\n") if "# train.sh" in block
    ]
    return blocks[0].split("```")[0]


def start(folder: Path, port: int, arguments: list[str]) -> subprocess.Popen:
    (folder / "train.sh").write_text(script().replace("29500", str(port)))
    for name, text in (("srun", SRUN), ("torchrun", TORCHRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "7"}
    environment = {
        **os.environ,
        **slurm,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "REQUEUED": str(folder / "requeued"),
    }
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            ["bash", str(folder / "train.sh"), *arguments], env=environment, cwd=folder, stdout=log, stderr=log
        )


def wait_for(condition, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.1)


def test_a_job_that_is_stopped_goes_back_into_the_queue_and_continues(tiny_run, tmp_path):
    more = ["tracking=none", "training.steps=400", "training.checkpoint_seconds=0.2", "training.evaluate_every=400",
            f"dataset.path={tiny_run.config.dataset.path}"]  # fmt: skip
    arguments = tiny.overrides(tmp_path / "runs", *more)
    process = start(tmp_path, 29611, arguments)
    wait_for(lambda: [*tmp_path.glob(f"runs/levels/*/{CHECKPOINT}")], process, tmp_path / "log")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert [*tmp_path.glob(f"runs/levels/*/{CHECKPOINT}")]  # a level is not finished
    process = start(tmp_path, 29612, arguments)
    assert process.wait(180) == 0, (tmp_path / "log").read_text()[-3000:]
    assert "resumes from its checkpoint" in (tmp_path / "log").read_text()
    assert len([*tmp_path.glob(f"runs/levels/*/{METRICS}")]) == 3
    assert not [*tmp_path.glob(f"runs/levels/*/{CHECKPOINT}")]
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"  # once
