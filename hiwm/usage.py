"""What `hiwm --help` and `hiwm <command> --help` print."""

from __future__ import annotations

import textwrap
from importlib.resources import files

# command -> "module:function" that runs it on a Config, and its description. The function is a string, so that --help
# imports nothing.
COMMANDS = {
    "collect": ("hiwm.experiment:collect", "collect a dataset with a behaviour policy in the environment"),
    "train": ("hiwm.experiment:train", "train the levels bottom-up, build the landmark graphs, save the hierarchy"),
    "evaluate": (
        "hiwm.experiment:evaluate",
        "measure success of the hierarchy and its baselines with the same budget of predictor calls",
    ),
    "report": ("hiwm.analysis.report:report", "write report.html: result, episode viewer, levels, questions"),
    "ladder": (
        "hiwm.analysis.ladder:ladder",
        "replace one part of one level at a time by the truth: which part limits success?",
    ),
    "run": ("", "collect, train, evaluate and report"),
}

# the same for `hiwm data <command>`, with its arguments
DATA = {
    "check": ("hiwm.experiment.datasets:check", "FILE [key=value ...]", "print what a dataset holds, and look for NaN"),
    "show": ("hiwm.analysis.dataset_picture:show", "FILE -o PNG", "draw some of its episodes"),
    "convert": ("hiwm.experiment.datasets:convert", "SOURCE FILE.h5", "convert a dataset of {formats}"),
}

USAGE = """hiwm: hierarchical world models

usage: hiwm <command> [experiment=<name>] [key=value ...]

commands:
{commands}
  ablate    compare variants in one command: ablation=<name> [--dry-run] [key=value ...]
  compare   compare finished runs on one page: runs/<experiment> runs/<experiment>/seed1 ...
  data      check, show or convert a dataset; see `hiwm data --help`
  levels    list the trained levels that experiments share; `show <fingerprint>` one, `prune` those that no run has
  mlflow    open MLflow's interface on all runs; `sync <folder>` sends the records of a run that the server has not received

examples:
  hiwm run experiment=pointmaze
  hiwm train experiment=pointmaze environment.maze=large seed=1 training.steps=3000
  hiwm train --multirun experiment=pointmaze seed=0,1,2
  torchrun --nproc-per-node 2 -m hiwm train experiment=pointmaze environment.maze=large
  torchrun --nproc-per-node 2 -m hiwm evaluate experiment=pointmaze environment.maze=large

Results are saved under runs/<experiment>/. A command reuses results that are already there.
`hiwm <command> --help` lists the experiments, the configuration groups and the keys with their defaults.
HYDRA_FULL_ERROR=1 shows the traceback of an error."""

COMMAND_HELP = """hiwm {command}: {description}

usage: hiwm {command} experiment=<name> [key=value ...]

configuration groups, for level <k>:
{groups}

keys and defaults, written with dots on the command line, e.g. training.steps=3000:

{keys}
levels.level<k>, with level@levels.level<k>=abstract:
{level}
planner.level<k>:
{planner}
evaluation, with evaluation=ogbench:
{protocol}
The arguments of a part are in its file in {folder}/<group>/."""

# folder in configs/ -> how to choose one of its files, and what they configure
GROUPS = {
    "experiment": (
        "experiment",
        "environment, dataset, levels and planner; pointmaze also takes\n      "
        "environment.maze=medium, large, giant or teleport, and dataset.environment.behaviour=navigate or stitch",
    ),
    "environment": ("environment", "any Gymnasium environment by environment.id, with experiment=custom"),
    "evaluation": ("evaluation", "tasks and baselines"),
    "level": ("level@levels.level<k>", "a level with all its parts"),
    "encoder": ("encoder@levels.level<k>.encoder", "its encoder"),
    "action_encoder": ("action_encoder@levels.level<k>.action_encoder", "its action encoder"),
    "predictor": ("predictor@levels.level<k>.predictor", "its predictor"),
    "regularizer": ("regularizer@levels.level<k>", "its regularizer, which prevents collapse"),
    "macro": ("macro@levels.level<k>", "the regularizer of its macro-actions"),
    "pretraining": ("pretraining@levels.level0", "pretraining of the encoder of level 0"),
    "solver": (
        "solver@planner.solver",
        "the solver; for level 0 with discrete actions: solver@planner.discrete_solver",
    ),
}

#: command -> its help, for those that take no configuration alone
OTHERS = {
    "ablate": """hiwm ablate: train and evaluate every variant of an ablation with every seed, and compare them in a table and a figure

usage: hiwm ablate ablation=<name or file.yaml> [--dry-run] [key=value ...]

  ablation=   {ablations}; or a file of your own with the same keys (configs/ablation/)
  --dry-run   print what will be trained, shared and evaluated, and end
  key=value   an override of all variants; `hiwm train --help` lists the keys

Levels that variants share are trained once. An interrupted ablation continues with the same command. The table and the figure are
written to <root>/ablations/<name>/.

example:
  hiwm ablate ablation=depth training.steps=500 evaluation.episodes=5""",
    "compare": """hiwm compare: compare finished runs on one page

usage: hiwm compare RUN RUN [RUN ...] ['allow=[my_module]']

  RUN      folder of a run that `hiwm train` has finished, e.g. runs/<experiment>; differences are to the first one
  allow=   modules with parts of your own that the runs use

The page shows success, with paired differences where the runs have the same episodes, metrics and curves of every level, and the
similarity of their latents. It is written to <root>/comparisons/.

example:
  hiwm compare runs/demo runs/demo/seed1""",
    "levels": """hiwm levels: the trained levels that experiments share

usage: hiwm levels [root=runs]                      list them: size, last validation, and the runs that use each
       hiwm levels show <fingerprint> [root=runs]   one level: what it was made from, its configuration and its metrics
       hiwm levels prune [--yes] [root=runs]        name the levels that no run uses; --yes removes them

  root=           folder of all results
  <fingerprint>   its first characters are enough

example:
  hiwm levels prune --yes""",
    "mlflow": """hiwm mlflow: MLflow's interface on the runs of all experiments

usage: hiwm mlflow [root=runs]        open it on <root>/mlflow.db, until Ctrl-C
       hiwm mlflow sync <folder>      send the records of a run that the server has not received

  root=      folder of all results
  <folder>   of the run, e.g. runs/<experiment>; MLFLOW_TRACKING_URI names the server

example:
  hiwm mlflow sync runs/demo""",
}
VERBS = [*COMMANDS, "data", *OTHERS]


def usage() -> str:
    """Of hiwm."""
    return USAGE.format(commands="\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()))


def data_usage() -> str:
    """Of `hiwm data`."""
    from hiwm.data.importers import FORMATS

    lines = [f"  hiwm data {name} {how}\n      {what}" for name, (_, how, what) in DATA.items()]
    return "usage:\n" + "\n".join(lines).format(formats=", ".join(FORMATS))


def command_help(command: str) -> str:
    """Of one command."""
    if command in OTHERS:
        return OTHERS[command].format(ablations=", ".join(_names("ablation")))
    configs = files("hiwm.configs")

    def choices(group: str, key: str, description: str) -> str:
        line = f"{key}={', '.join(_names(group))}"
        indented = textwrap.fill(line, 116, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
        return f"{indented}\n      ({description})"

    def section(group: str, name: str) -> str:
        return textwrap.indent(configs.joinpath(group).joinpath(f"{name}.yaml").read_text(), "  ")

    return COMMAND_HELP.format(
        command=command,
        description=COMMANDS[command][1],
        groups="\n".join(choices(group, *text) for group, text in GROUPS.items()),
        keys=configs.joinpath("config.yaml").read_text(),
        level=section("level", "abstract"),
        planner=section("planner", "level"),
        protocol=section("evaluation", "ogbench"),
        folder=configs,
    )


def _names(group: str) -> list[str]:
    """Names of the files of a configuration group."""
    return sorted(file.name.removesuffix(".yaml") for file in files("hiwm.configs").joinpath(group).iterdir())
