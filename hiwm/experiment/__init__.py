"""The commands collect, train, evaluate and run. Each reuses existing results and prints that it does."""

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
