"""Batches: padded on the left, labels on the answers alone, and groups within a limit of tokens."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from seekr_lite.data.batch import IGNORED, collate, split_by_cost, split_by_tokens
from seekr_lite.data.encoding import EncodedExample

PAD = 0
ROWS = [EncodedExample((11, 12, 13, 14), 2), EncodedExample((21, 22), 1)]


@st.composite
def encoded(draw: st.DrawFn) -> EncodedExample:
    # The pad token is a possible token of a text, too: only the mask may say what padding is.
    ids = draw(st.lists(st.integers(0, 5), min_size=1, max_size=12))
    return EncodedExample(tuple(ids), draw(st.integers(0, len(ids))))


def test_rows_are_padded_on_the_left() -> None:
    batch = collate(ROWS, PAD)
    assert batch.input_ids.tolist() == [[11, 12, 13, 14], [PAD, PAD, 21, 22]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]


def test_rows_are_padded_to_a_multiple_where_that_is_asked_for() -> None:
    assert [collate(ROWS, PAD, multiple).input_ids.shape[1] for multiple in (1, 3, 4)] == [4, 6, 4]


def test_positions_count_from_the_first_real_token() -> None:
    assert collate(ROWS, PAD).position_ids.tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]


def test_labels_are_the_answers_alone() -> None:
    assert collate(ROWS, PAD).labels.tolist() == [
        [IGNORED, IGNORED, 13, 14],
        [IGNORED, IGNORED, IGNORED, 22],
    ]


def test_padding_counts_pad_tokens() -> None:
    assert collate(ROWS, PAD).padding.tolist() == [0, 2]


def test_a_prompt_alone_has_no_labels() -> None:
    assert collate([EncodedExample((1, 2), 0)], PAD).labels.tolist() == [[IGNORED, IGNORED]]


def test_subset_keeps_the_width() -> None:
    batch = collate(ROWS, PAD).subset(torch.tensor([1]))
    assert batch.input_ids.tolist() == [[PAD, PAD, 21, 22]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, IGNORED, 22]]
    assert batch.padding.tolist() == [2]


def test_to_moves_every_tensor() -> None:
    batch = collate(ROWS, PAD).to(torch.device("meta"))
    tensors = (batch.input_ids, batch.attention_mask, batch.position_ids, batch.labels)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@given(rows=st.lists(encoded(), min_size=1, max_size=6))
def test_every_row_comes_back_from_its_batch(rows: list[EncodedExample]) -> None:
    batch = collate(rows, PAD)
    for index, row in enumerate(rows):
        real = batch.attention_mask[index].bool()
        assert tuple(batch.input_ids[index][real].tolist()) == row.input_ids
        assert batch.position_ids[index][real].tolist() == list(range(len(row.input_ids)))
        labels = batch.labels[index]
        answer = row.input_ids[len(row.input_ids) - row.answer_length :]
        assert tuple(labels[labels != IGNORED].tolist()) == answer
        assert int(batch.padding[index]) == batch.input_ids.shape[1] - len(row.input_ids)


@given(lengths=st.lists(st.integers(1, 12), max_size=30), limit=st.integers(1, 40))
def test_split_by_tokens_is_a_partition_within_the_limit(lengths: list[int], limit: int) -> None:
    groups = split_by_tokens(lengths, limit)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        padded = max(lengths[index] for index in group) * len(group)
        assert padded <= limit or len(group) == 1


def test_split_by_tokens_takes_the_longest_first() -> None:
    assert split_by_tokens([2, 9, 4, 4], 10) == [[1], [2, 3], [0]]


def test_split_by_tokens_fills_a_group_to_the_limit() -> None:
    assert split_by_tokens([4, 4, 4], 12) == [[0, 1, 2]]
    assert split_by_tokens([4, 4, 4], 11) == [[0, 1], [2]]


def test_split_by_tokens_of_nothing() -> None:
    assert split_by_tokens([], 10) == []


@given(st.lists(st.integers(1, 60), max_size=12), st.integers(1, 200), st.integers(0, 50))
def test_split_by_cost_is_a_partition_within_the_limit(lengths: list[int], limit: int, pass_tokens: int) -> None:
    groups = split_by_cost(lengths, limit, pass_tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * max(lengths[i] for i in group) <= limit for group in groups)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(1, 200), st.integers(0, 50))
def test_split_by_cost_is_the_cheapest_of_all(lengths: list[int], limit: int, pass_tokens: int) -> None:
    def cost(groups: list[list[int]]) -> int:
        return sum(len(group) * max(lengths[i] for i in group) + pass_tokens for group in groups)

    allowed = [
        groups
        for groups in partitions(list(range(len(lengths))))
        if all(len(group) == 1 or len(group) * max(lengths[i] for i in group) <= limit for group in groups)
    ]
    assert cost(split_by_cost(lengths, limit, pass_tokens)) == min(cost(groups) for groups in allowed)


def partitions(items: list[int]) -> list[list[list[int]]]:
    """All ways to put items into groups."""
    if not items:
        return [[]]
    first, found = items[0], []
    for rest in partitions(items[1:]):
        found.append([[first], *rest])
        found += [[*rest[:at], [first, *rest[at]], *rest[at + 1 :]] for at in range(len(rest))]
    return found


def test_split_by_cost_keeps_rows_of_unlike_length_apart() -> None:
    assert split_by_cost([100, 10, 100, 10], 1000, 20) == [[0, 2], [1, 3]]
    assert split_by_cost([100, 90, 100, 90], 1000, 50) == [[0, 2, 1, 3]]
