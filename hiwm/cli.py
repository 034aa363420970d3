"""The command line: `hiwm <command> [key=value ...]`."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from hiwm.usage import COMMANDS, DATA, OTHERS, VERBS, command_help, data_usage, usage

MULTIRUN = {"-m", "--multirun"}

CONTINUE = (
    "Run the same command to continue: collection and evaluation resume after their last finished batch of episodes, "
    "training resumes from its last checkpoint"
)

DISK = "Free some space and run the same command; it reuses what is finished"


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
        _show(usage())
        return 0 if arguments else 2
    command, *overrides = arguments
    if command == "-sc":
        return _complete(arguments)
    if command == "data":
        return _data(overrides)
    if command not in VERBS:
        print(f"hiwm: the command is {command!r}; expected one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    if {"-h", "--help"} & set(overrides):
        text = command_help(command)
        given = [override for override in overrides if override not in ("-h", "--help")]
        if given and command in COMMANDS:
            text += f"\n\nvalues with {' '.join(given)}: hiwm {command} {' '.join(given)} --cfg job"
        _show(text)
        return 0
    if command in OTHERS:
        run = {"ablate": _ablate, "compare": _compare, "levels": _levels, "mlflow": _mlflow}[command]
        return _guarded(command, lambda: run(overrides))
    if "--cfg" in overrides:
        return _guarded(command, lambda: _show_config([o for o in overrides if o not in ("--cfg", "job")]))
    if MULTIRUN & set(overrides):
        return _guarded(command, lambda: _sweep(command, [o for o in overrides if o not in MULTIRUN]))
    return _guarded(command, lambda: _run(command, overrides))


def _show(text: str) -> None:
    """Print a text that its reader, such as `| head`, may not read to the end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it exits


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
        raise ValueError(
            f"the arguments are {' '.join(arguments)!r}; expected `hiwm mlflow [root=runs]` or `hiwm mlflow sync <folder>`"
        )
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
        raise ValueError(
            f"the arguments are {' '.join(arguments)!r}; expected one of the forms of `hiwm levels --help`"
        )
    return 0


def _data(arguments: list[str]) -> int:
    """Run `hiwm data ...`; returns the exit status."""
    if not arguments or {"-h", "--help"} & set(arguments):
        _show(data_usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if "-o" in rest:
        rest.remove("-o")
    number = {"check": 1}.get(name, 2)
    if name not in DATA or len(rest) < number or (len(rest) > number and name != "check"):
        found = " ".join(["hiwm data", *arguments])
        usages = " or ".join(f"hiwm data {name} {how}" for name, (_, how, _) in DATA.items())
        missing = ", and -o is missing" if name == "show" and "-o" not in arguments else ""
        print(f"hiwm: the command is {found!r}{missing}; expected {usages}", file=sys.stderr)
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
    _show(yaml.safe_dump(load_config(overrides).as_dict(), sort_keys=False).rstrip("\n"))
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
