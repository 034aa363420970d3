from __future__ import annotations

import copy
import inspect
import sys
import types

import pytest
import tiny
import torch
import yaml

from hiwm.build import build, drop_foreign_arguments, locate
from hiwm.config import Config, ConfigError, DatasetConfig, load_config
from hiwm.evaluation.config import EvaluationConfig, Forbidden
from hiwm.evaluation.evaluate import make_agents
from hiwm.heads.action_bank import ActionBankConfig
from hiwm.heads.action_prior import ActionPriorConfig
from hiwm.heads.state_readout import GoalConfig
from hiwm.heads.text import TextConfig
from hiwm.heads.value import ValueConfig
from hiwm.hierarchy import Hierarchy, LevelSpec
from hiwm.planning.config import LevelPlanning, PlannerConfig
from hiwm.planning.graph.landmarks import GraphConfig
from hiwm.planning.validate import check_config
from hiwm.training.loop import TrainingConfig
from hiwm.training.specs import check_parts
from hiwm.validate import check

EXPERIMENTS = sorted(path.stem for path in (tiny.ROOT / "configs" / "experiment").glob("*.yaml"))
#: an experiment, and what else makes one of the shipped ones
SHIPPED = [(name, []) for name in EXPERIMENTS if not name.startswith("pointmaze")] + [
    (name, [f"environment.maze={maze}", f"dataset.environment.behaviour={behaviour}"])
    for name in ("pointmaze", "pointmaze-metric")
    for maze in ("medium", "large", "giant", "teleport")
    for behaviour in ("navigate", "stitch")
]
FIT = [ActionPriorConfig, GoalConfig, TextConfig, ValueConfig]
EVALUATIONS = sorted(path.stem for path in (tiny.ROOT / "configs" / "evaluation").glob("*.yaml"))


def test_there_are_some():
    assert len(EXPERIMENTS) >= 8
    assert {"ogbench", "ablation"} <= set(EVALUATIONS)


def columns(config):
    """Shapes of the inputs, and the size of an action."""
    if config.environment["_target_"].endswith("Manipulation"):
        from hiwm.envs.manipulation import Manipulation

        env = Manipulation(**{key: value for key, value in config.environment.items() if key != "_target_"})
        assert config.evaluation.max_steps == env.max_steps
        assert set(config.state) <= set(env.observation_space)
        return {name: env.observation_space[name].shape for name in config.inputs}, 5
    return ({"state": (2,)} if config.inputs == ["state"] else {"pixels": (64, 64, 3)}), 2


@pytest.mark.parametrize(("experiment", "more"), SHIPPED)
def test_experiments(experiment, more):
    own = ["+environment._target_=tiny.TinyRoom", "allow=[tiny]"] if experiment == "custom" else []
    config = load_config([f"experiment={experiment}", *more, *own])
    assert isinstance(config, Config)
    arguments = [argument.split("=")[1] for argument in more]
    base, metric, _ = experiment.partition("-metric")
    assert config.name == "-".join([base, *arguments]) + metric
    assert str(config.folder) == f"runs/{config.name}"
    shared = {
        "cube-single-entities": "cube-single"
    }  # the same data, encoded in another way; so are those of metric levels
    dataset = shared.get(experiment, config.name.removesuffix("-metric"))
    assert config.dataset.path == f"runs/datasets/{dataset}.h5"

    environment = locate(config.environment["_target_"], config.allow)
    accepted = environment.__init__.__kwdefaults__ | environment.__init__.__annotations__
    assert set(config.environment) - {"_target_"} <= set(accepted)
    assert set(config.dataset.environment) <= set(accepted)
    assert callable(build(config.dataset.policy).act)

    shapes, dim = columns(config)
    levels, specs, inputs = [], [], shapes
    for parts, stride in zip(config.hierarchy.levels, config.hierarchy.strides, strict=True):
        specs.append(LevelSpec(parts, stride, inputs, dim, "none"))
        levels.append(specs[-1].build())
        inputs, dim = {"latent": (levels[-1].encoder.dim,)}, levels[-1].action_encoder.dim
    hierarchy = Hierarchy(levels, specs).eval()
    assert [
        latent.shape for latent in hierarchy.encode({name: torch.zeros(5, *shape) for name, shape in shapes.items()})
    ] == [(5, level.encoder.dim) for level in levels]
    # every level's window fits into the episodes
    for level, period in zip(levels, hierarchy.periods, strict=True):
        assert level.horizon * period + 1 <= config.dataset.steps

    check_config(config.planner, len(levels))
    assert callable(build(config.planner.solver).solve)


def test_a_solver_is_chosen_by_its_name():
    assert load_config([]).planner.solver["_target_"] == "hiwm.planning.solvers.cem.CEM"
    solver = load_config(["solver@planner.solver=icem", "planner.solver.keep=0.5"]).planner.solver
    assert build(solver).keep == 0.5
    assert "min_std" not in solver  # nothing of the CEM it replaces
    with pytest.raises(ConfigError, match="annealing"):
        load_config(["solver@planner.solver=annealing"])


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_evaluations(evaluation):
    about = {"depth": ["experiment=fourroom-deep"], "manipulation": ["experiment=cube-single"]}
    config = load_config([*about.get(evaluation, []), f"evaluation={evaluation}"])
    assert config.evaluation.baselines
    check(config)


CUSTOM = ["experiment=custom", "environment._target_=tiny.TinyRoom", "allow=[tiny]"]
BACK_TO_THE_GRAPH = [
    "level@levels.level1=abstract", "level@levels.level2=abstract", "planner.graph=follow", "planner.shrinking_horizon=false",
    "planner.level1.support_weight=0", "planner.level2.support_weight=0",
]  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        ["evaluation=closed_door"],
        ["evaluation=keep_out", "goal.columns=[state]"],
        ["levels.level2.stride=3"],
        ["~levels.level1", "planner.graph=follow", "planner.shrinking_horizon=false"],
        BACK_TO_THE_GRAPH,  # as docs/environments.md has it
    ],
)
def test_variants_of_the_custom_experiment(more):
    check(load_config([*CUSTOM, *more]))


def test_the_way_back_to_the_graph_is_documented():
    assert " ".join(BACK_TO_THE_GRAPH) in (tiny.ROOT / "docs" / "environments.md").read_text()


def test_joint_training_says_which_level_cannot_take_part():
    joint = load_config([*CUSTOM, "training.joint=true"])
    with pytest.raises(ValueError, match=r"level1 has the regularizer graph_distance; .* level@levels.level1=abstract"):
        check_parts(joint.hierarchy, joint.training, {"state": (2,), "action": (2,)})
    joint = load_config([*CUSTOM, "training.joint=true", "level@levels.level1=abstract"])
    check_parts(joint.hierarchy, joint.training, {"state": (2,), "action": (2,)})


@pytest.mark.parametrize("evaluation", ["ogbench", "ablation"])
def test_every_agent_of_an_evaluation_can_be_made(agent, evaluation):
    """With the real planner config on the tiny hierarchy: strides differ, all else is the same."""
    config = load_config([f"evaluation={evaluation}"])
    same = agent.with_planner(**config.planner.as_dict())
    agents = make_agents(same, config.evaluation)
    assert list(agents) == ["hierarchical", *config.evaluation.baselines]
    assert make_agents(same, config.evaluation.changed({"baseline_budget": 3}))


def test_files_of_other_seeds_lie_apart():
    config = load_config(["seed=2", "root=elsewhere"])
    assert str(config.folder) == "elsewhere/pointmaze-medium-navigate/seed2"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.step=3", "training.step|step"),
        ("+training.step=3", "training.step"),
        (
            "experiment=pointmazze",
            r"experiment=pointmazze is unknown; expected one of cube-double, .*\. Did you mean pointmaze\?$",
        ),
        ("experiment=sceene", r"experiment=sceene is unknown; expected one of .*, sixteenroom\. Did you mean scene\?$"),
        (
            "encoder@levels.level1.encoder=mlpp",
            r"encoder=mlpp is unknown; expected one of beside_inputs, .* Did you mean mlp\?$",
        ),
        ("planer.hops=1", "unknown key planer; expected one of .*. Did you mean planner"),
        ("planner.hop=1", "unknown key planner.hop; expected one of .*. Did you mean hops"),
        ("levels.level1.predictor.widht=1", "unknown key levels.level1.predictor.widht; .* Did you mean width"),
        ("levels.level1.training.steps=5", r"expected no key. Write \+levels.level1.training.steps=... for a key"),
        ("levels.level9.horizon=1", "unknown key levels.level9; expected one of level0, level1, level2"),
        (
            "levels.level3=2",
            r"expected one of level0, level1, level2. Write \+level@levels.level3=abstract to add a level",
        ),
        (
            "diagnostics.mine._target_=x",
            r"diagnostics.mine; expected no key. Write \+diagnostics.mine._target_=... for a",
        ),
        ("environment.colour=red", r"expected one of _target_, maze. Write \+environment.colour=..."),
        ("dataset.policy.speed=1", r"Write \+dataset.policy.speed=..."),
        ("planner.level1.costs.mine._target_=x", r"Write \+planner.level1.costs.mine._target_=..."),
        ("planner.solver.width=1", r"Write \+planner.solver.width=..."),
        ("evaluation.baselines.mine.num_levels=1", r"Write \+evaluation.baselines.mine.num_levels=..."),
        ("planner.hopz=1", r"unknown key planner.hopz; expected one of [\w, ]*. Did you mean hops\?$"),
        (
            "planner.level0.strategy._target_=my.S",
            r"strategy is search; .*Write planner.level0.strategy={_target_: ...}$",
        ),
        ("evaluation.goal._target_=my.G", r"evaluation.goal is null; .*Write evaluation.goal={_target_: ...}$"),
        ("threads.many=1", "threads is null and has no keys$"),
        ("planner.level5.horizon=1", r"unknown key planner.level5; expected one of [\w, ]*. Did you mean level2\?$"),
        (
            "+planner.level5.horizon=1",
            "unknown key planner.level5; expected one of level0, level1, level2, the levels that",
        ),
        (
            "+planner@planner.level5=level",
            "unknown key planner.level5; expected one of level0, level1, level2, the levels",
        ),
        ("+extra=3", "unknown key extra"),
        ("training.steps=many", "training.steps is 'many'; expected a whole number"),
        ("training.steps=2.5", "training.steps is 2.5; expected a whole number"),
        ("training.learning_rate=fast", "training.learning_rate is 'fast'"),
        ("training.batch=true", "training.batch is True"),
        ("strides=[1,2,3]", "unknown key strides; expected one of .*levels"),
        ("inputs=state", "inputs is 'state'"),
        ("inputs=[latent]", "inputs has latent, which names the latents of the level below"),
        ("tracking=wandb", "tracking is 'wandb'; expected mlflow, none"),
        ("experiment=pointmaze-tiny", "pointmaze-tiny"),
        ("evaluation=everything", "everything"),
        ("seed=[1", r"\[1"),
        (
            "evaluation.baselines={}",
            "evaluation.baselines is {}, .*; expected ~evaluation.baselines.flat ~evaluation.baselines.flat_graph$",
        ),
        ("evaluation={baselines: {}}", "evaluation.baselines is {}, which removes nothing"),
        ("level@levels.level2=null", "level@levels.level2 is null; .* Write ~levels.level2 to remove the level$"),
        (
            "predictor@levels.level1.predictor=null",
            "is null; expected the name of one of the files in configs/predictor/$",
        ),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config([override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["planner.foo=1", "planner.bar=2"], "unknown key planner.bar; expected one of .*hops"),
        (["planner.foo=1", "seed=[1"], r"\[1"),
        (["planner.foo=1", "planner.bar=2", "experiment=nowhere"], "nowhere"),
    ],
)
def test_one_of_several_mistakes_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides)


def test_an_empty_mapping_stays_where_it_removes_nothing():
    config = load_config(
        ["evaluation.environment={}", "~evaluation.baselines.flat", "~evaluation.baselines.flat_graph"]
    )
    assert config.evaluation.baselines == {}


@pytest.mark.parametrize("override", ["+levels.level3=2", "++levels.level1=2"])
def test_a_level_that_is_a_number_is_refused(override):
    with pytest.raises(ValueError, match=r"levels.level\d is 2; expected a mapping. Write level@levels.level"):
        _ = load_config([override]).hierarchy


def test_levels_without_a_gap():
    config = load_config(["+levels.level4=${levels.level2}"])
    with pytest.raises(ConfigError, match=r"levels has the keys .*level4.*without a gap"):
        _ = config.hierarchy


def test_a_level_more_or_less():
    two = load_config(["~level@levels.level2"])
    assert two.hierarchy.strides == (1, 10)
    four = load_config(["+level@levels.level3=abstract", "levels.level2.stride=2", "levels.level3.encoder.dim=3"])
    assert four.hierarchy.strides == (1, 10, 2, 3)
    assert [parts["encoder"].get("dim") for parts in four.hierarchy.levels] == [None, 4, 4, 3]


def test_one_entry_adds_a_level():
    four = load_config(["+level@levels.level3=abstract"])
    assert four.hierarchy.strides == (1, 10, 3, 3)
    check_config(four.planner, 4)  # without an entry in the planner: the defaults
    assert four.planner.level(3) == LevelPlanning()
    assert four.planner.replan(3) == four.planner.replan(2)


@pytest.mark.parametrize(
    ("experiment", "removed"),
    [("pointmaze", "~levels.level2"), ("pointmaze", "~level@levels.level2"), ("fourroom", "~levels.level2")],
)
def test_the_planner_has_no_settings_of_a_level_that_is_removed(removed, experiment):
    config = load_config([f"experiment={experiment}", removed])
    assert config.planner.levels == [0, 1]
    assert load_config([]).planner.levels == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"unknown key planner.level2; expected one of level0, level1, the levels"):
        load_config([f"experiment={experiment}", removed, "planner.level2.horizon=6"])


@pytest.mark.parametrize("experiment", ["pointmaze-metric", "fourroom-metric"])
def test_an_override_brings_back_a_level_that_an_experiment_drops(experiment):
    def strides(*overrides):
        config = load_config([f"experiment={experiment}", *overrides])
        assert config.planner.levels == [0, 1, 2][: len(config.levels)]
        return config.hierarchy.strides

    two = strides()
    assert len(two) == 2
    third = 3 if experiment == "pointmaze-metric" else 2
    for override in (
        "level@levels.level2=metric",
        "encoder@levels.level2.encoder=mlp16",
        "levels.level2.encoder.dim=3",
    ):
        assert strides(override) == (*two, third)
    assert strides("level@levels.level2=metric", "levels.level2.stride=4", "planner.level2.horizon=3") == (*two, 4)
    assert strides("levels.level2={stride: 4}") == (*two, 4)
    assert strides("level@levels.level2=metric", "+level@levels.level3=abstract") == (*two, third, 3)
    for override in ("~levels.level2", "levels.level2=null", "levels.level1.encoder.dim=3"):
        assert strides(override) == two
    check(load_config([f"experiment={experiment}", "level@levels.level2=metric"]))


@pytest.mark.parametrize(
    "experiment", ["pointmaze-metric", "fourroom-metric", "rooms-unseen", "diverse-maze", "puzzle-3x3"]
)
def test_the_flat_planner_scored_by_the_metric_stays_flat_with_a_third_level(experiment):
    third = ["level@levels.level2=metric", "planner.shrinking_horizon=true", "planner.level1.goal_weight=1"]
    config = load_config([f"experiment={experiment}", *third])
    check(config)
    planner, levels = config.evaluation.planner_of("flat_metric", config.planner, len(config.levels))
    assert (len(config.levels), levels) == (3, 2)
    assert [planner.strategy(k, levels - 1) for k in range(levels)] == ["search", "hand_down"]
    assert not planner.shrinking_horizon


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["planner.level2.horizon=3"],
            "^unknown key planner.level2; expected one of level0, level1, the levels that plan",
        ),
        (
            ["+planner.level2.horizon=3"],
            "^unknown key planner.level2; expected one of level0, level1, the levels that plan",
        ),
        (
            ["level@levels.level2=metric", "+planner.level2.horizon=3"],
            r"^planner.level2.horizon is in the configuration already; expected planner.level2.horizon=... without \+$",
        ),
        (
            ["+level@levels.level2=metric"],
            r"^level@levels.level2 is chosen already; expected level@levels.level2=metric without \+$",
        ),
        (
            ["+level@levels.level2=abstract", "seed=1"],
            r"^level@levels.level2 is chosen already; expected level@levels.level2=abstract without \+$",
        ),
        (["levels.level2.strid=3"], "^unknown key levels.level2.strid; expected one of action_encoder, encoder"),
        (["+levels.level1.absent=true"], "^unknown key levels.level1.absent"),
    ],
)
def test_a_level_that_an_experiment_drops_is_explained(overrides, message):
    with pytest.raises(ValueError, match=message):
        _ = load_config(["experiment=pointmaze-metric", *overrides]).hierarchy


def test_an_entry_of_an_added_level_says_how_to_add_it():
    with pytest.raises(ConfigError, match=r"Write \+planner.level3.horizon=... for a key that the config leaves out"):
        load_config(["+level@levels.level3=abstract", "planner.level3.horizon=3"])
    four = load_config(["+level@levels.level3=abstract", "+planner.level3.horizon=3"])
    assert four.planner.levels == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("{graph: sideways}", "planner.graph is 'sideways'; expected none, follow, search"),
        ("{hopz: 2}", "unknown key planner.hopz"),
        ("{num_levels: 4}", "num_levels is 4; expected 1 to 3"),
        (
            "{num_levels: 2, level2: {horizon: 3}}",
            "unknown key planner.level2; expected one of level0, level1, the levels",
        ),
        (
            "{graph: none, level1: {horizon: 5, action_repeat: 2}}",
            "planner.level1.horizon is 5; expected a multiple of",
        ),
        ("{graph: none, level2: {proposal: {center: flow}}}", "level 2 learns no action prior"),
    ],
)
def test_baselines_are_checked_before_any_work(baseline, message):
    config = load_config([f"+evaluation.baselines.mine={baseline}"])
    with pytest.raises(ConfigError, match=f"^evaluation.baselines.mine: .*{message}"):
        check(config)


#: configs that choose other values than their class has, on purpose
VARIANTS = {"mlp16", "vit_patches", "mppi_tdmpc2"}
PARTS = [
    path
    for path in sorted((tiny.ROOT / "configs").glob("*/*.yaml"))
    if path.parent.name in ("encoder", "action_encoder", "predictor", "solver") and path.stem not in VARIANTS
]


@pytest.mark.parametrize("path", PARTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_part_has_the_same_defaults_in_python_and_yaml(path):
    values = yaml.safe_load(path.read_text())
    parameters = inspect.signature(locate(values.pop("_target_"))).parameters
    for key, value in values.items():
        default = parameters[key].default
        if default is not inspect.Parameter.empty:
            assert (list(default) if isinstance(default, tuple) else default) == value, key


def test_the_levels_have_the_same_defaults_in_python_and_yaml():
    described = yaml.safe_load((tiny.ROOT / "configs/planner/level.yaml").read_text())
    described["proposal"]["candidates"] = tuple(described["proposal"]["candidates"])
    assert described == LevelPlanning().as_dict()
    for level in ("state", "abstract"):
        inverse = yaml.safe_load((tiny.ROOT / f"configs/level/{level}.yaml").read_text())["inverse"]
        parameters = inspect.signature(locate(inverse.pop("_target_"))).parameters
        optional = [key for key in inverse if parameters[key].default is not inspect.Parameter.empty]
        assert len(optional) == 2
        assert {key: inverse[key] for key in optional} == {key: parameters[key].default for key in optional}


@pytest.mark.parametrize(
    "section",
    [
        Config,
        DatasetConfig,
        EvaluationConfig,
        Forbidden,
        GraphConfig,
        TrainingConfig,
        PlannerConfig,
        ActionBankConfig,
        *FIT,
    ],
)
def test_the_values_of_a_section_are_in_yaml_alone(section):
    assert [name for name, field in section.model_fields.items() if not field.is_required()] == []


class Strict:
    """A part of a user's own."""

    def __init__(self, *, dim, width=3): ...


class Open:
    """One that takes any keyword."""

    def __init__(self, **arguments): ...


ENCODER = {"_target_": "tests_own.Strict", "dim": 4, "width": 8, "depth": 2}


@pytest.fixture
def own(monkeypatch):
    """A module of the user's, named in `allow`."""
    module = types.ModuleType("tests_own")
    for kind in (Strict, Open):
        monkeypatch.setattr(kind, "__module__", "tests_own")
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "tests_own", module)


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ([], {"dim", "width", "depth"}),
        (["levels.level1.encoder.depth=2"], {"dim", "width", "depth"}),
        (["levels.level1.encoder._target_=tests_own.Strict"], {"dim", "width"}),
        (["++levels.level1.encoder._target_=tests_own.Strict"], {"dim", "width"}),
        (["levels.level1.encoder={_target_: tests_own.Strict, dim: 4}"], {"dim", "width"}),
        # given by hand: it stays, and is refused by name when the part is built
        (["levels.level1.encoder._target_=tests_own.Strict", "levels.level1.encoder.depth=2"], {"dim", "width", "depth"}),
        (["+levels.level1.encoder={depth: 2}", "levels.level1.encoder._target_=tests_own.Strict"], {"dim", "width", "depth"}),
        # of other mappings
        (["levels.level2.encoder._target_=tests_own.Strict"], {"dim", "width", "depth"}),
        (["encoder@levels.level1.encoder=mlp", "~levels.level1.encoder.skip"], {"dim", "width", "depth"}),
    ],
)  # fmt: skip
def test_arguments_of_a_class_that_was_replaced_are_dropped(own, overrides, kept):
    config = {"levels": {"level1": {"encoder": dict(ENCODER), "stride": 3}}, "seed": 0}
    before = copy.deepcopy(config)
    changed = drop_foreign_arguments(config, overrides, ["tests_own"])
    assert set(changed["levels"]["level1"]["encoder"]) == {"_target_", *kept}
    assert config == before
    changed["levels"]["level1"]["encoder"] = ENCODER
    assert changed == before  # nothing else was touched


@pytest.mark.parametrize(
    ("target", "allow"),
    [("tests_own.Open", ["tests_own"]), ("tests_own.Strict", []), ("tests_own.Missing", ["tests_own"]), (None, [])],
)
def test_all_arguments_stay_where_the_class_takes_any_or_is_refused(own, target, allow):
    config = {"part": {**ENCODER, "_target_": target}}
    assert drop_foreign_arguments(config, ["part._target_=x"], allow) == config


def test_a_solver_of_ones_own_needs_none_of_the_arguments_of_the_former(own):
    chosen = ["allow=[tests_own]", "planner.solver._target_=tests_own.Strict"]
    config = load_config([*chosen, "+planner.solver.dim=3"])
    assert config.planner.solver == {"_target_": "tests_own.Strict", "dim": 3}
    assert isinstance(build(config.planner.solver, ["tests_own"]), Strict)
    wrong = load_config([*chosen, "+planner.solver.dim=3", "+planner.solver.heads=2"])
    with pytest.raises(ValueError, match=r"tests_own.Strict: .*'heads'"):
        build(wrong.planner.solver, ["tests_own"])


def test_an_encoder_of_another_class_needs_none_of_the_arguments_of_the_former():
    chosen = ["levels.level1.encoder._target_=hiwm.levels.encoders.identity.IdentityEncoder"]
    parts = load_config(chosen).levels["level1"]
    assert parts["encoder"] == {"_target_": "hiwm.levels.encoders.identity.IdentityEncoder"}
    LevelSpec(parts, 3, {"latent": (5,)}, 2, "").build()
    wrong = load_config([*chosen, "levels.level1.encoder.dim=8"]).levels["level1"]
    with pytest.raises(ValueError, match=r"IdentityEncoder: .*'dim'; its config keys are \['dim'\]"):
        LevelSpec(wrong, 3, {"latent": (5,)}, 2, "").build()
