"""Writes two small tasks about letters of customers: is the writer angry, and is it about money?

    python scripts/make_letters.py [FOLDER]      # by default my-tasks; each task has train.jsonl and test.jsonl

They show how rows look, and are soon learned, also by the built-in base.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path

OPENINGS = {"hello,": "no", "good morning,": "no", "dear team,": "no", "again!": "yes", "what a shame:": "yes"}
PROBLEMS = {
    "I was charged twice": "yes",
    "where is my refund": "yes",
    "the invoice is wrong": "yes",
    "my parcel is late": "no",
    "the box is broken": "no",
    "I cannot log in": "no",
}
NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana"]
TRAIN_ROWS = 200  # of 240; the others are test rows


def main(folder: Path) -> None:
    letters = list(itertools.product(OPENINGS, PROBLEMS, NAMES))
    random.Random(0).shuffle(letters)
    for task in ("angry", "money"):
        rows = [
            {
                "prompt": f"{task}: {opening} {problem}. {name} ->",
                "answer": OPENINGS[opening] if task == "angry" else PROBLEMS[problem],
            }
            for opening, problem, name in letters
        ]
        (folder / task).mkdir(parents=True, exist_ok=True)
        for split, part in {"train": rows[:TRAIN_ROWS], "test": rows[TRAIN_ROWS:]}.items():
            text = "".join(json.dumps(row) + "\n" for row in part)
            (folder / task / f"{split}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-tasks"))
