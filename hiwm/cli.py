"""`hiwm <verb> [hydra overrides]`."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap

# verb -> what does it, as "module:function" of a Config, and what it is for. Names, so that --help imports nothing.
VERBS = {
    "collect": ("hiwm.experiment:collect", "make the dataset, by a behaviour policy in the environment"),
    "train": ("hiwm.experiment:train", "train the levels bottom-up, build the landmark graphs, save the hierarchy"),
    "evaluate": ("hiwm.experiment:evaluate", "success of the stack and its flat baselines, at equal predictor calls"),
    "report": ("hiwm.analysis.report:report", "write report.html: curves, success table, pictures of plans"),
    "run": ("", "collect, train, evaluate and report"),
}

STOPPED = "the same command goes on: collection from its last episodes, training from its last checkpoint, evaluation from its last batch of episodes"

USAGE = """hiwm: hierarchical world models

usage: hiwm <verb> [experiment=<name>] [key=value ...]

{verbs}

examples:
  hiwm run experiment=pointmaze-medium-navigate          the whole thing, from nothing
  hiwm train experiment=pointmaze-large-navigate seed=1 training.steps=3000
  torchrun --nproc-per-node 2 -m hiwm train experiment=pointmaze-large-navigate

Results lie under runs/<experiment>/; a verb that has its result already reuses it.
`hiwm <verb> --help` lists the experiments and the keys. HYDRA_FULL_ERROR=1 shows where an error came from."""


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status: 0, or 2 for a mistake in the command, the config or the files."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {verb:<10}{purpose}" for verb, (_, purpose) in VERBS.items())))
        return 0 if arguments else 2
    verb, *overrides = arguments
    if verb not in VERBS:
        print(f"hiwm: there is no verb {verb!r}; allowed: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    if {"-h", "--help"} & set(overrides):
        print(_verb_help(verb))
        return 0
    sys.path.insert(0, "")  # your own parts are imported from the folder you are in
    import logging

    from hiwm.config import load_config

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        config = load_config(overrides)
        for name in ("collect", "train", "evaluate", "report") if verb == "run" else (verb,):
            module, function = VERBS[name][0].split(":")
            getattr(importlib.import_module(module), function)(config)
    except ValueError as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        print(f"hiwm {verb}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"hiwm {verb}: {error.strerror or ' '.join(str(error).split())}: {error.filename or ''}",
            file=sys.stderr,
        )
        return 1
    except Exception as error:  # SQLite and safetensors have errors of their own for it
        if not any(sign in str(error) for sign in ("No space left", "disk is full")):
            raise
        print(
            f"hiwm {verb}: the disk is full; free some space, the same command reuses finished levels", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print(f"\nhiwm {verb}: stopped; {STOPPED}", file=sys.stderr)
        return 130
    return 0


def _verb_help(verb: str) -> str:
    from importlib.resources import files

    configs = files("hiwm.configs")

    def choices(group: str) -> str:
        return ", ".join(sorted(file.name.removesuffix(".yaml") for file in configs.joinpath(group).iterdir()))

    protocol = configs.joinpath("evaluation").joinpath("ogbench.yaml").read_text()
    return f"""hiwm {verb}: {VERBS[verb][1]}

usage: hiwm {verb} experiment=<name> [key=value ...]

experiment={choices("experiment")}
evaluation={choices("evaluation")}
level@levels.level<k>={choices("level")}
and, of a level, its parts and what keeps it from collapsing:
encoder@levels.level<k>.encoder={choices("encoder")}
action_encoder@levels.level<k>.action_encoder={choices("action_encoder")}
predictor@levels.level<k>.predictor={choices("predictor")}
regularizer@levels.level<k>={choices("regularizer")}
macro@levels.level<k>={choices("macro")}
and, of level 0, how its encoder learns before it:
pretraining@levels.level0={choices("pretraining")}
and, of the planner, how it searches:
solver@planner.solver={choices("solver")}
(of level 0 with discrete actions: solver@planner.discrete_solver)

Keys and defaults, dotted on the command line, e.g. training.steps=3000:

{configs.joinpath("config.yaml").read_text()}
evaluation:
{textwrap.indent(protocol, "  ")}"""
