"""Peak memory does not grow with the dataset."""

import subprocess
import sys

CODE = """
import resource, sys
import numpy as np
from hiwm.data.clips import ClipSampler
from hiwm.data.store import Writer, open_dataset

path, episodes = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
with Writer(path, {}) as writer:
    for _ in range(episodes):
        writer.append({"pixels": rng.integers(0, 256, (80, 64, 64, 3), np.uint8), "action": np.zeros((80, 2), np.float32)})
dataset = open_dataset(path).checked(["pixels", "action"])
sampler = ClipSampler(dataset, inputs=["pixels"], action="action", horizon=4, stride=1, action_period=1, reach=2)
for _ in range(60):
    sampler.sample(64, rng)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_writing_scanning_and_sampling_take_as_much_for_six_times_the_data(tmp_path):
    peaks = []
    for episodes in (50, 300):  # 49 and 295 MB of pixels
        done = subprocess.run(
            [sys.executable, "-c", CODE, tmp_path / "data.h5", str(episodes)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
        (tmp_path / "data.h5").unlink()
    assert peaks[1] < 1.1 * peaks[0], peaks
