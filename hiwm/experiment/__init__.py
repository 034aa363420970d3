"""The verbs of the command line: collect, train, evaluate, run. Each reuses its result where it exists, and says so."""

from hiwm.config import Config
from hiwm.experiment.collection import collect
from hiwm.experiment.evaluation import evaluate
from hiwm.experiment.training import train

__all__ = ["collect", "evaluate", "run", "train"]


def run(config: Config) -> None:
    """Collect, train, evaluate."""
    collect(config)
    train(config)
    evaluate(config)
