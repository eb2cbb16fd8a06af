"""Metrics from 0 to 100, higher is better: the mean over the test rows of a score per row.

Those of TRACE give the numbers of the official code (`utils/metrics.py` and `evaluations/` of
jinghan1he/SEEKR), and 0 where it would stop on an empty text. Of several references the best one counts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

RowScore = Callable[[str, str, Sequence[str]], float]  # of source (prompt), prediction, references


def mean_score(scores: Sequence[float]) -> float:
    """The score of a task from those of its rows; 0 where there are no rows."""
    return math.fsum(scores) / len(scores) if scores else 0.0


def best_of(compare: Callable[[str, str], float]) -> RowScore:
    """The row score that compares the prediction with each reference, from 0 to 1, and takes the best."""

    def score_row(source: str, prediction: str, references: Sequence[str]) -> float:
        return 100.0 * max((compare(prediction, reference) for reference in references), default=0.0)

    return score_row


def same(prediction: str, reference: str) -> float:
    """1 for the same non-empty text, to the character (`calculate_accuracy`)."""
    return float(prediction != "" and prediction == reference)


def same_first_letter(prediction: str, reference: str) -> float:
    """1 for the same first character (`eval_CStance`, `eval_ScienceQA`: what follows it does not count)."""
    return same(prediction[:1], reference[:1])


def same_first_word(prediction: str, reference: str) -> float:
    """1 where the prediction's first word is the reference (`eval_acc`, SuperNI's first scoring pass)."""
    return same("".join(prediction.split()[:1]), reference)


def same_stripped(prediction: str, reference: str) -> float:
    """1 for the same text but for case and the white space around it."""
    return float(prediction.strip().casefold() == reference.strip().casefold())


def longest_common_words(first: Sequence[str], second: Sequence[str]) -> set[str]:
    """The words of a longest common subsequence; of several, the one that `rouge` 1.0.1 finds."""
    lengths = [[0] * (len(second) + 1)]
    for word in first:
        above, row = lengths[-1], [0]
        for column, other in enumerate(second):
            row.append(above[column] + 1 if word == other else max(above[column + 1], row[column]))
        lengths.append(row)
    words, i, j = set(), len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            words.add(first[i])
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words


def rouge_l(prediction: str, reference: str) -> float:
    """Summary-level ROUGE-L F (Lin 2004) as in package `rouge` 1.0.1: distinct words, sentences end at ".".

    Written out here because the package recurses over words: a RecursionError on long sentences. A blank
    text, or one of full stops only, counts as 0. Prediction and reference stand in the official order, which
    decides between equally long subsequences.
    """
    if not prediction.strip() or not reference.strip():
        return 0.0
    # "or ['']": a blank sentence is one empty word to the package.
    sides = [[part.split() or [""] for part in text.split(".") if part] for text in (prediction, reference)]
    ours, theirs = ({word for sentence in side for word in sentence} for side in sides)
    common: set[str] = set().union(*(longest_common_words(mine, right) for mine in sides[0] for right in sides[1]))
    if not common:
        return 0.0
    precision, recall = len(common) / len(ours), len(common) / len(theirs)
    return 2 * precision * recall / (precision + recall + 1e-8)


def plain_code(text: str) -> str:
    """Code with Py150's placeholders filled in: `<STR_LIT:x>` is x, `<NUM_LIT>` is 0, others are empty."""
    text = text.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return re.sub(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", r"\1", text, flags=re.DOTALL)


def fuzz_ratio(prediction: str, reference: str) -> float:
    """Edit similarity of code (`eval_Py150`): fuzzywuzzy's ratio, in whole hundredths, after `plain_code`."""
    from rapidfuzz.distance import Indel

    ours, right = plain_code(prediction), plain_code(reference)
    if not ours or not right:
        return 0.0
    length = len(ours) + len(right)
    return round(100 * ((length - Indel.distance(ours, right)) / length)) / 100


def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of n tokens occurs."""
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def bleu(order: int) -> Callable[[str, str], float]:
    """Sentence BLEU up to n-grams of `order` (Papineni et al. 2002), unsmoothed; space and "." split."""

    def compare(prediction: str, reference: str) -> float:
        ours, right = ([token for token in re.split(r"\s|\.", text) if token] for text in (prediction, reference))
        logs = 0.0
        for n in range(1, order + 1):
            counts = ngrams(ours, n)
            hits = (counts & ngrams(right, n)).total()
            if not hits:
                return 0.0
            logs += math.log(hits / counts.total()) / order
        return math.exp(logs + min(0.0, 1 - len(right) / len(ours)))

    return compare


SYMBOL = re.compile("([" + re.escape(r"""!"#$%&()*+/:;<=>?@[\]^_`{|}~""") + "])")
ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def tokens_13a(text: str) -> list[str]:
    """Lower-case tokens of the WMT tokenizer "mteval-v13a", which SARI in Hugging Face `evaluate` uses."""
    text = text.lower().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in ENTITIES:
        text = text.replace(entity, character)
    text = SYMBOL.sub(r" \1 ", f" {text} ")
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    text = re.sub(r"([0-9])-", r"\1 - ", text)
    return text.split() or [""]


def harmonic(precision: float, recall: float) -> float:
    """F1; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def sari_of_order(source: Sequence[str], ours: Sequence[str], references: Sequence[Sequence[str]], n: int) -> float:
    """SARI of the n-grams of one order, from 0 to 1: the mean of keep F1, delete precision and add F1."""
    copies = len(references)
    before, after = ngrams(source, n), ngrams(ours, n)
    right = sum((ngrams(reference, n) for reference in references), Counter[tuple[str, ...]]())
    # Counts of source and prediction weigh as much as those of all references together.
    old = Counter({gram: count * copies for gram, count in before.items()})
    new = Counter({gram: count * copies for gram, count in after.items()})

    kept, to_keep = old & new, old & right
    well_kept = kept & right
    keep_precision = sum(well_kept[gram] / kept[gram] for gram in well_kept) / len(kept) if kept else 1.0
    keep_recall = well_kept.total() / to_keep.total() if to_keep else 1.0

    deleted = old - new
    well_deleted = deleted - right
    deletion = sum(well_deleted[gram] / deleted[gram] for gram in well_deleted) / len(deleted) if deleted else 1.0

    added, to_add = after.keys() - before.keys(), right.keys() - before.keys()
    well_added = len(added & to_add)
    addition = harmonic(well_added / len(added) if added else 1.0, well_added / len(to_add) if to_add else 1.0)
    return (harmonic(keep_precision, keep_recall) + deletion + addition) / 3


def sari(source: str, prediction: str, references: Sequence[str]) -> float:
    """SARI (Xu et al. 2016) as Hugging Face `evaluate` has it: orders 1 to 4, all references together."""
    if not references:
        return 0.0
    before, ours, *right = (tokens_13a(text) for text in (source, prediction, *references))
    return 100.0 * sum(sari_of_order(before, ours, right, n) for n in range(1, 5)) / 4


METRICS: dict[str, RowScore] = {
    "accuracy": best_of(same),  # TRACE
    "first_letter_accuracy": best_of(same_first_letter),  # TRACE's C-STANCE, ScienceQA
    "first_word_accuracy": best_of(same_first_word),
    "exact_match": best_of(same_stripped),
    "rouge_l": best_of(rouge_l),  # TRACE's MeetingBank
    "fuzz": best_of(fuzz_ratio),  # TRACE's Py150
    "sari": sari,  # TRACE's 20Minuten
    "bleu_1": best_of(bleu(1)),
    "bleu_4": best_of(bleu(4)),
    "superni_accuracy": best_of(same),  # SuperNI's published pass
    "superni_rouge_l": best_of(rouge_l),  # SuperNI's published pass
}
