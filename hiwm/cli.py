"""The command line: `hiwm <command> [key=value ...]`."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import textwrap
from collections.abc import Callable
from typing import Any

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
VERBS = [*COMMANDS, "ablate", "compare", "data", "levels", "mlflow"]
MULTIRUN = {"-m", "--multirun"}
LEVELS = "`hiwm levels [root=runs]`, `hiwm levels show <fingerprint>` or `hiwm levels prune [--yes]`"
MLFLOW = "`hiwm mlflow [root=runs]` or `hiwm mlflow sync <folder>`"

# the same for `hiwm data <command>`, with its arguments
DATA = {
    "check": ("hiwm.experiment.datasets:check", "FILE [key=value ...]", "print what a dataset holds, and look for NaN"),
    "show": ("hiwm.analysis.dataset_picture:show", "FILE -o PNG", "draw some of its episodes"),
    "convert": ("hiwm.experiment.datasets:convert", "SOURCE FILE.h5", "convert a dataset of {formats}"),
}

CONTINUE = (
    "Run the same command to continue: collection and evaluation resume after their last finished batch of episodes, "
    "training resumes from its last checkpoint"
)

DISK = "Free some space and run the same command; it reuses what is finished"

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


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command and its overrides; None for those of the process.

    Returns:
        The exit status: 0; 1 for a file or disk that fails; 2 for a mistake in the command, the configuration or the
        files; 128 + n after signal n: 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1, 129 for SIGHUP.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what an ASCII terminal lacks is escaped
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())))
        return 0 if arguments else 2
    command, *overrides = arguments
    if command == "-sc":
        return _complete(arguments)
    if command == "mlflow":
        return _guarded(command, lambda: _mlflow(overrides))
    if command == "data":
        return _data(overrides)
    if command == "ablate":
        return _guarded(command, lambda: _ablate(overrides))
    if command == "compare":
        return _guarded(command, lambda: _compare(overrides))
    if command == "levels":
        return _guarded(command, lambda: _levels(overrides))
    if command not in COMMANDS:
        print(
            f"hiwm: the command is {command!r}; expected one of {', '.join(VERBS)}",
            file=sys.stderr,
        )
        return 2
    if {"-h", "--help"} & set(overrides):
        print(_command_help(command))
        return 0
    if "--cfg" in overrides:
        return _guarded(command, lambda: _show_config([o for o in overrides if o not in ("--cfg", "job")]))
    if MULTIRUN & set(overrides):
        return _guarded(command, lambda: _sweep(command, [o for o in overrides if o not in MULTIRUN]))
    return _guarded(command, lambda: _run(command, overrides))


def _guarded(command: str, run: Callable[[], int]) -> int:
    """Run a command; an expected error becomes one line and an exit status."""
    from hiwm.signals import raising

    try:
        with raising():
            return run()
    except (Exception, KeyboardInterrupt) as error:
        status, message = _explain(error)
        from hiwm.console import printable

        if not isinstance(error, KeyboardInterrupt) or os.environ.get("RANK", "0") == "0":  # all ranks stop together
            print(f"hiwm {command}: {printable(message)}", file=sys.stderr)
        return status


def _mlflow(arguments: list[str]) -> int:
    """Show the runs in MLflow's interface, or deliver what its server has not got yet."""
    from pathlib import Path

    show, sync = _imported("hiwm.tracking:show", "hiwm.tracking:sync")
    if len(arguments) == 2 and arguments[0] == "sync":
        return 1 if sync(Path(arguments[1])) else 0
    if len(arguments) > 1 or not all(argument.startswith("root=") for argument in arguments):
        raise ValueError(f"the arguments are {' '.join(arguments)!r}; expected {MLFLOW}")
    return show(Path(arguments[0].removeprefix("root=") if arguments else "runs"))


def _ablate(arguments: list[str]) -> int:
    sys.path.insert(0, "")
    import logging

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    (ablate,) = _imported("hiwm.analysis.ablation:ablate")
    ablate(arguments)
    return 0


def _compare(arguments: list[str]) -> int:
    """Run `hiwm compare RUN RUN ... ['allow=[my_module]']`."""
    import yaml

    sys.path.insert(0, "")
    given = [argument.removeprefix("allow=") for argument in arguments if argument.startswith("allow=")]
    allow = yaml.safe_load(given[-1]) if given else []
    (compare,) = _imported("hiwm.analysis.compare:compare")
    compare([a for a in arguments if not a.startswith("allow=")], [allow] if isinstance(allow, str) else allow)
    return 0


def _levels(arguments: list[str]) -> int:
    """Run `hiwm levels ...`."""
    show, prune = _imported("hiwm.experiment.levels:show", "hiwm.experiment.levels:prune")
    roots = [argument.removeprefix("root=") for argument in arguments if argument.startswith("root=")]
    rest = [argument for argument in arguments if not argument.startswith("root=")]
    root = roots[-1] if roots else "runs"
    if not rest:
        show(root)
    elif rest[0] == "prune" and set(rest[1:]) <= {"--yes"}:
        prune(root, "--yes" in rest)
    elif rest[0] == "show" and len(rest) == 2:
        show(root, rest[1])
    else:
        raise ValueError(f"the arguments are {' '.join(arguments)!r}; expected {LEVELS}")
    return 0


def _data(arguments: list[str]) -> int:
    """Run `hiwm data ...`; returns the exit status."""
    if not arguments or {"-h", "--help"} & set(arguments):
        from hiwm.data.importers import FORMATS

        lines = [f"  hiwm data {name} {how}\n      {what}" for name, (_, how, what) in DATA.items()]
        print("usage:\n" + "\n".join(lines).format(formats=", ".join(FORMATS)))
        return 0 if arguments else 2
    name, *rest = arguments
    if "-o" in rest:
        rest.remove("-o")
    number = {"check": 1}.get(name, 2)
    if name not in DATA or len(rest) < number or (len(rest) > number and name != "check"):
        found = " ".join(["hiwm data", *arguments])
        usages = " or ".join(f"hiwm data {name} {how}" for name, (_, how, _) in DATA.items())
        print(f"hiwm: the command is {found!r}; expected {usages}", file=sys.stderr)
        return 2
    return _guarded(f"data {name}", lambda: _run_data(name, rest))


def _run_data(name: str, arguments: list[str]) -> int:
    (function,) = _imported(DATA[name][0])
    if name == "check":
        function(arguments[0], arguments[1:])
    else:
        function(*arguments)
    return 0


def _imported(*places: str) -> list[Callable[..., Any]]:
    """The functions `module:function`. A signal waits until they are there, because it would leave half a module behind."""
    from hiwm.signals import deferring

    with deferring():
        split = [place.split(":") for place in places]
        return [getattr(importlib.import_module(module), function) for module, function in split]


def _run(command: str, overrides: list[str]) -> int:
    sys.path.insert(0, "")  # so that _target_ finds classes in the current folder
    import logging

    names = ("collect", "train", "evaluate", "report") if command == "run" else (command,)
    load_config, *functions = _imported("hiwm.config:load_config", *(COMMANDS[name][0] for name in names))
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    config = load_config(overrides)
    for function in functions:
        function(config)
    return 0


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit status and message for an expected error; any other error is raised again."""
    if isinstance(error, KeyboardInterrupt):
        return getattr(error, "status", 130), f"stopped{f' by {error}' if str(error) else ''}. {CONTINUE}"
    if isinstance(error, ValueError):
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise error
        return 2, str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        text = where + (error.strerror or " ".join(str(error).split()))
        return 1, text + (f". {DISK}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "")
    if any(sign in str(error) for sign in ("No space left", "disk is full")):  # libraries have their own classes
        return 1, f"the disk is full. {DISK}"
    raise error


def _sweep(command: str, overrides: list[str]) -> int:
    sys.path.insert(0, "")
    (sweep,) = _imported("hiwm.sweep:sweep")
    return sweep(command, overrides)


def _show_config(overrides: list[str]) -> int:
    """Print the composed config, as Hydra does for `--cfg job`."""
    import yaml

    (load_config,) = _imported("hiwm.config:load_config")
    print(yaml.safe_dump(load_config(overrides).as_dict(), sort_keys=False), end="")
    return 0


def _complete(arguments: list[str]) -> int:
    """Hydra's tab completion (`-sc install=bash`), for the words after the command."""
    line = os.environ.get("COMP_LINE", "")
    program, command, *words = [*line.split(" "), "", ""][: max(2, line.count(" ") + 1)]
    if arguments[1:2] == ["query=bash"] and not words:
        print(" ".join(name for name in VERBS if name.startswith(command)))
        return 0
    os.environ["COMP_LINE"] = " ".join([program, *words])
    (complete,) = _imported("hiwm.sweep:complete")
    complete(arguments)
    return 0


def _command_help(command: str) -> str:
    from importlib.resources import files

    configs = files("hiwm.configs")

    def choices(group: str, key: str, description: str) -> str:
        names = sorted(file.name.removesuffix(".yaml") for file in configs.joinpath(group).iterdir())
        line = f"{key}={', '.join(names)}"
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
