"""Files name classes. Whatever they name, loading runs nothing that the user does not trust."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import hiwm
from hiwm.build import ENVIRONMENTS, KINDS, PARTS, POLICIES, build, build_as, check_described, locate
from hiwm.config import load_config
from hiwm.planning.solvers.solver import Solver

HOSTILE: list[Any] = [
    "os.system", "os.popen", "os.posix_spawn", "posix.system", "subprocess.Popen", "subprocess.run", "subprocess.getoutput",
    "builtins.eval", "builtins.exec", "builtins.open", "builtins.__import__", "importlib.import_module", "runpy.run_path",
    "functools.partial", "operator.methodcaller", "pydoc.locate", "pickle.loads", "shutil.rmtree", "pathlib.Path.touch",
    "hydra.utils.instantiate", "hydra.utils.get_method", "omegaconf.OmegaConf.load", "yaml.unsafe_load", "numpy.load",
    "torch.load", "torch.hub.load", "torch.compile", "torch.jit.load", "torch.jit.CompilationUnit", "torch.package.PackageImporter",
    "torch.utils.cpp_extension.load", "torch.nn.Sequential", "torch.nn.Module", "torch.nn.modules.module.os.system",
    "torch.nn.parallel.DistributedDataParallel", "torch.nn.modules.lazy.LazyModuleMixin", "torch.nn.functional.torch.load",
    "torch_geometric.nn.sequential.Sequential", "torch_geometric.nn.Sequential", "torch_geometric.nn.GCNConv",
    "hiwm.tracking.MLflowTracker", "hiwm.tracking.os.system", "hiwm.data.store.Writer", "hiwm.build.build", "hiwm.build.locate",
    "hiwm.cli.main", "hiwm.load_agent", "hiwm.agent.Agent", "hiwm.agent.load_agent", "hiwm.agent.shutil.rmtree",
    "hiwm.files.replace_folder", "hiwm.experiment.train", "hiwm.envs.pointmaze.PointMaze", "hiwm.data.policies.UniformPolicy",
    "hiwm.levels.level.Level.forward.__globals__", "hiwm.levels.level.__builtins__", "hiwm.__main__.main", "__main__.main",
    "wicked.Encoder", "wicked.Solver", "hiwm_wicked.Encoder", "wicked", "", ".", "..os.system", "os.system ", " os.system",
    "os system.x", "os\n.system", "\uff4f\uff53.system", "hiwm.levels.encoders.mlp.MLPEncoder\x00", "hiwm/levels/encoders/mlp.MLPEncoder",
    "../wicked.Encoder", None, 3, True, ["os.system"], {"_target_": "os.system"},
]  # fmt: skip

# where a file names a class: (file, keys that lead to it, what the message says of it)
PLACES = {
    "encoder": ("hierarchy.yaml", "levels 1 config encoder", r"levels\[1\]\.config\.encoder"),
    "action encoder": ("hierarchy.yaml", "levels 2 config action_encoder", r"levels\[2\]\.config\.action_encoder"),
    "predictor": ("hierarchy.yaml", "levels 0 config predictor", r"levels\[0\]\.config\.predictor"),
    "inverse": ("hierarchy.yaml", "levels 1 config inverse", r"levels\[1\]\.config\.inverse"),
    "target": ("hierarchy.yaml", "levels 1 config target", r"levels\[1\]\.config\.target"),
    "regularizer": ("hierarchy.yaml", "levels 1 config regularizers mine", r"levels\[1\]\.config\.regularizers\.mine"),
    "nested": ("hierarchy.yaml", "levels 1 config encoder width", r"levels\[1\]\.config\.encoder: width"),
    "in a list": ("hierarchy.yaml", "levels 1 config encoder width 0", r"levels\[1\]\.config\.encoder: width\[0\]"),
    "solver": ("agent.yaml", "planner solver", r"planner\.solver"),
    "nested in the solver": ("agent.yaml", "planner solver elites", r"planner\.solver: elites"),
    "strategy": ("agent.yaml", "planner level0 strategy", r"planner\.level0\.strategy"),
    "cost": ("agent.yaml", "planner level0 costs mine", r"planner\.level0\.costs\.mine"),
}
EVERY = {"encoder", "nested", "solver", "nested in the solver"}  # places that try all classes; others try a quarter


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A path at which any of the classes would make a file, and a module that does so when it is imported."""
    path = tmp_path / "canary"
    for name in ("wicked", "hiwm_wicked"):
        (tmp_path / f"{name}.py").write_text(
            f"open({str(path)!r}, 'w').close()\n\nclass Encoder: ...\nclass Solver: ...\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield path
    assert not path.exists()
    assert not {"wicked", "hiwm_wicked"} & set(sys.modules)


@pytest.fixture
def saved(tiny_run, tmp_path):
    folder = Path(shutil.copytree(tiny_run.folder / "hierarchy", tmp_path / "hierarchy"))
    described = yaml.safe_load((folder / "agent.yaml").read_text())
    described["planner"]["level0"]["strategy"] = "search"  # so that level 0 has costs
    (folder / "agent.yaml").write_text(yaml.safe_dump(described))
    return folder


def put(path: Path, keys: str, value: Any) -> None:
    """Replace the value at a path of keys; lists and mappings that are not there are made."""
    content = yaml.safe_load(path.read_text())
    at, (*way, last) = content, [int(key) if key.isdigit() else key for key in keys.split()]
    for key, following in zip(way, [*way[1:], last], strict=False):
        if not isinstance(at[key] if isinstance(at, list) else at.get(key), (dict, list)):
            at[key] = [None] if isinstance(following, int) else {}
        at = at[key]
    at[last] = value
    path.write_text(yaml.safe_dump(content))


def arguments(path: Path) -> dict[str, Any]:
    """Arguments that would make the canary with most of the classes."""
    return {
        "command": f"touch {path}",
        "args": ["touch", str(path)],
        "input_args": f"x, open({str(path)!r}, 'w')",
        "file": str(path),
    }


@pytest.mark.parametrize("place", PLACES)
def test_no_file_names_what_is_not_trusted(saved, canary, place):
    file, keys, key = PLACES[place]
    whole = (saved / file).read_text()
    assert len({str(target) for target in HOSTILE}) >= 70
    number = list(PLACES).index(place)
    for target in HOSTILE if place in EVERY else HOSTILE[number % 4 :: 4]:
        (saved / file).write_text(whole)
        put(saved / file, keys, {"_target_": target, **arguments(canary)})
        with pytest.raises(ValueError, match=rf"{file}: {key}") as refusal:
            hiwm.load_agent(saved)
        assert "\n" not in str(refusal.value), target
        assert not canary.exists(), target


def test_the_environment_of_a_hierarchy_is_not_built(saved, canary):
    for target in (*HOSTILE[::4], "hiwm.envs.manipulation.Manipulation"):
        put(saved / "agent.yaml", "spec environment", {"_target_": target, **arguments(canary)})
        hiwm.load_agent(saved)
        assert not canary.exists(), target


def test_metadata_of_a_head_names_no_class(saved, canary):
    path = saved / "action_bank0.safetensors"
    tensors = load_file(path)
    put(saved / "hierarchy.yaml", "files", {})
    for target in HOSTILE[::2]:
        nested = {"_target_": target, **arguments(canary)}
        for head, given in ((str(target), {}), ("ActionBank", nested), ("ActionBank", {"low": nested})):
            save_file(tensors, path, {"head": head, "arguments": json.dumps(given)})
            with pytest.raises(ValueError, match=r"action_bank0\.safetensors holds"):
                hiwm.load_agent(saved)


@pytest.mark.parametrize("kinds", [PARTS, ENVIRONMENTS, POLICIES])
def test_no_config_names_what_is_not_trusted(canary, kinds):
    there = {ENVIRONMENTS: "hiwm.envs.pointmaze.PointMaze", POLICIES: "hiwm.data.policies.UniformPolicy"}.get(kinds)
    for target in HOSTILE:
        if target != there:
            with pytest.raises(ValueError, match=r"not trusted|expected a subclass|cannot be imported"):
                build({"_target_": target, **arguments(canary)}, kinds=kinds)
    assert issubclass(locate(there or "hiwm.levels.encoders.mlp.MLPEncoder", kinds=kinds), object)


def test_an_override_imports_nothing_that_is_not_allowed(canary):
    for key in ("levels.level1.encoder", "planner.solver", "dataset.policy", "environment"):
        load_config(["experiment=pointmaze", f"++{key}._target_=wicked.Encoder"])


#: what a module of the user's may well import, and no file may call through it
IMPORTED = [
    "os.system", "subprocess.Popen", "pathlib.Path", "functools.partial", "pickle.loads", "numpy.load", "torch.load", "torch.nn.Sequential",
    "torch.jit.ScriptModule", "torch_geometric.nn.Sequential", "scipy.io.loadmat", "pandas.read_pickle", "pandas.DataFrame", "joblib.load",
    "sklearn.datasets.fetch_openml", "sklearn.pipeline.Pipeline", "h5py.File", "matplotlib.pyplot.savefig", "plotly.io.write_html",
    "jinja2.Template", "gymnasium.make", "safetensors.torch.load_file", "rich.print", "xxhash.xxh64", "yaml.unsafe_load", "mlflow.start_run",
    "hydra.utils.instantiate", "omegaconf.OmegaConf.load", "pydantic.create_model", "hiwm.build.build", "hiwm.cli.main",
    "hiwm.load_agent", "hiwm.files.replace_folder", "hiwm.data.store.Writer", "helper_of_users_own.run",
]  # fmt: skip


@pytest.fixture
def users_own(tmp_path, monkeypatch):
    """The module `users_own`, the package `users_package`, and a module that they import and nobody allows."""
    imports = [f"import {target.rpartition('.')[0]}\n" for target in IMPORTED if "OmegaConf" not in target]
    names = [f"imported_{i} = {target}\n" for i, target in enumerate(IMPORTED)]
    (tmp_path / "helper_of_users_own.py").write_text(f"def run(): open({str(tmp_path / 'run')!r}, 'w').close()\n")
    (tmp_path / "users_own.py").write_text(
        f"import omegaconf\nimport subprocess\n{''.join(imports)}{''.join(names)}"
        "import functools\nfrom hiwm.levels.encoders.mlp import MLPEncoder\nfrom torch.nn import Linear\n"
        "class Mine: ...\n\ndef make(): return Mine()\n\n"
        "@functools.wraps(make)\ndef decorated(): return Mine()\n"
        "cached = functools.lru_cache(make)\nshort = functools.partial(pandas.read_pickle, compression=None)\n"
    )
    package = tmp_path / "users_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from users_package._inner import Mine, make\nfrom pandas import read_pickle\n"
    )
    (package / "_inner.py").write_text("class Mine: ...\n\ndef make(): return Mine()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("users_own", "users_package", "users_package._inner", "helper_of_users_own"):
        sys.modules.pop(name, None)


def test_what_the_user_allows_is_not_what_it_imports(users_own):
    for name in ("Mine", "make", "decorated", "cached"):
        for allow in (["users_own"], [f"users_own.{name}"]):
            assert callable(locate(f"users_own.{name}", allow))
    refused = ["subprocess", "subprocess.Popen", "__builtins__", "Missing", "short", "functools", "Linear"]
    for name in refused + [f"imported_{i}" for i in range(len(IMPORTED))]:
        for kinds in (KINDS, PARTS, ENVIRONMENTS, POLICIES):
            with pytest.raises(ValueError, match=r"not trusted|cannot be imported"):
                locate(f"users_own.{name}", ["users_own"], kinds)


def test_no_file_calls_what_an_allowed_module_imports(saved, users_own):
    """A pickle runs code as it is read."""
    payload, proof = users_own / "x.pkl", users_own / "run"
    payload.write_bytes(f"cposix\nsystem\n(S'touch {proof}'\ntR.".encode())
    whole = (saved / "hierarchy.yaml").read_text()
    for name, key in (("pandas.read_pickle", "filepath_or_buffer"), ("joblib.load", "filename")):
        hostile = {"_target_": f"users_own.imported_{IMPORTED.index(name)}", key: str(payload)}
        for place in ("encoder", "encoder width", "regularizers mine"):
            (saved / "hierarchy.yaml").write_text(whole)
            put(saved / "hierarchy.yaml", f"levels 1 config {place}", hostile)
            with pytest.raises(
                ValueError, match=r"is not trusted: it is defined in .* If you trust it: allow=\[users_own,users_own"
            ):
                hiwm.load_agent(saved, allow=["users_own"])
            assert not proof.exists()


def test_an_allowed_package_exports_what_its_modules_define(users_own):
    for name in ("Mine", "make"):
        assert locate(f"users_package.{name}", ["users_package"]).__module__ == "users_package._inner"
    with pytest.raises(ValueError, match=r"'users_package\.read_pickle' is not trusted: it is defined in pandas"):
        locate("users_package.read_pickle", ["users_package"])


def test_a_full_name_trusts_what_it_names_wherever_that_is_defined(users_own):
    assert locate("users_package.read_pickle", ["users_package.read_pickle"]).__name__ == "read_pickle"
    with pytest.raises(ValueError, match="not trusted"):
        locate("users_own.short", ["users_package.read_pickle", "users_own"])


def test_a_part_that_an_allowed_module_imports_is_trusted(users_own):
    assert locate("users_own.MLPEncoder", ["users_own"], ("hiwm.levels.parts.Encoder",)).__name__ == "MLPEncoder"
    with pytest.raises(ValueError, match="not trusted"):
        locate("users_own.MLPEncoder", ["users_own"], ("hiwm.planning.costs.Cost",))


def test_classes_of_a_notebook_are_trusted(monkeypatch):
    made = type("Mine", (), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Mine", made, raising=False)
    assert locate("__main__.Mine", ["__main__"]) is made


def test_a_class_of_another_kind_is_refused_before_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "users_own.py").write_text(
        f"class Other:\n    def __init__(self):\n        open({str(tmp_path / 'run')!r}, 'w').close()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    message = r"^planner\.solver makes a Other; expected a subclass of hiwm\.planning\.solvers\.solver\.Solver$"
    with pytest.raises(ValueError, match=message):
        build_as(Solver, "planner.solver", {"_target_": "users_own.Other"}, ["users_own"])
    with pytest.raises(ValueError, match=message):
        check_described(Solver, "planner.solver", {"_target_": "users_own.Other"}, ["users_own"])
    assert not (tmp_path / "run").exists()
    sys.modules.pop("users_own")


def test_named_layers_of_torch_are_trusted_as_arguments():
    for name in ("torch.nn.Linear", "torch.nn.modules.linear.Linear", "torch.nn.GELU"):
        assert issubclass(locate(name), torch.nn.Module)
    with pytest.raises(ValueError, match=r"'torch\.nn\.Linear' is not trusted"):
        locate("torch.nn.Linear", kinds=("hiwm.levels.parts.Encoder",))


def test_arguments_of_the_config_win_over_those_that_are_filled_in():
    described = {"_target_": "hiwm.levels.encoders.mlp.MLPEncoder", "dim": 3, "width": 8, "depth": 1}
    assert build(described, inputs={"state": (4,)}, dim=5, unknown=1).dim == 3
