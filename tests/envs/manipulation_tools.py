import numpy as np

CUBES = {
    "cube-single": 1,
    "cube-double": 2,
    "cube-triple": 3,
    "scene": 1,
    "puzzle-3x3": 0,
    "puzzle-4x4": 0,
    "puzzle-4x5": 0,
}
BUTTONS = {"scene": 2, "puzzle-3x3": 9, "puzzle-4x4": 16, "puzzle-4x5": 20}


def episode(env, seed, steps=25, task=1):
    observation, info = env.reset(seed=seed, options={"task_id": task})
    trace = [observation, info.get("goal", observation)]
    for action in np.random.default_rng(seed).uniform(-1, 1, (steps, 5)):
        observation, _, _, _, info = env.step(info.get("expert_action", action))
        trace.append(observation)
    return {name: np.stack([row[name] for row in trace]) for name in observation}
