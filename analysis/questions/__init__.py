"""The questions a researcher asks of a trained hierarchy, each a function (study) -> finding.

    from hiwm.analysis.questions import Study, surprise
    surprise(Study.of("runs/demo")).figure

A question that does not apply, for instance without a map, returns None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hiwm.analysis.questions.abstract_states import abstract_states
from hiwm.analysis.questions.distance import distance
from hiwm.analysis.questions.kept import kept
from hiwm.analysis.questions.macro_actions import macro_actions
from hiwm.analysis.questions.prediction import prediction
from hiwm.analysis.questions.stability import stability
from hiwm.analysis.questions.study import Finding, Study
from hiwm.analysis.questions.subgoals import subgoals
from hiwm.analysis.questions.support import support
from hiwm.analysis.questions.surprise import surprise

Question = Callable[[Study], Finding | None]

#: in the order of the report
QUESTIONS: Sequence[Question] = (
    kept, distance, prediction, macro_actions, abstract_states, subgoals, support, surprise, stability,
)  # fmt: skip

DIAGNOSTICS = "diagnostics.json"  # question -> its sentence and metrics, in the folder of a run


def ask(study: Study) -> Mapping[str, Finding]:
    """Name of each question that applies -> its answer."""
    answers = {question.__name__: question(study) for question in QUESTIONS}
    return {name: finding for name, finding in answers.items() if finding is not None}


__all__ = ["DIAGNOSTICS", "QUESTIONS", "Finding", "Study", "ask", *(question.__name__ for question in QUESTIONS)]
