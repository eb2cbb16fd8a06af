"""What is learned: a task is a name, its rows, and how its answers are judged."""

from __future__ import annotations

from dataclasses import dataclass, field

from seekr_lite.common.errors import check_task_name


@dataclass(frozen=True)
class Example:
    """One row: the text that the model reads and the text that it should write.

    `references` are all the answers that count as right at test time; empty means `(answer,)`.
    """

    prompt: str
    answer: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A task of the sequence.

    Args:
        name: names the task in recipes, scoreboards and folders; letters, digits, `.`, `_`, `-`.
        train: rows to learn from.
        test: rows to be judged on.
        validation: rows held out of training and replay, for the negative log-likelihood. Readers fill this.
        metric: a name in `seekr_lite.evaluation.metrics.METRICS`, from 0 to 100, higher is better.
        extraction: a name in `seekr_lite.evaluation.extraction.EXTRACTIONS`: how the answer is taken from
            what the model wrote.
        max_new_tokens: the longest answer that is generated; None takes the recipe's `max_answer_tokens`.

    Raises:
        UserError: the name could not be a file name.
    """

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    validation: tuple[Example, ...] = field(default=())
    metric: str = "exact_match"
    extraction: str = "none"
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        # Lists are welcome from Python; tuples are what is kept.
        for rows in ("train", "test", "validation"):
            object.__setattr__(self, rows, tuple(getattr(self, rows)))
        check_task_name(self.name)
