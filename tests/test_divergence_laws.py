"""The laws of the attention divergence, on random maps of random shapes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seekr_lite.attention.divergence import attention_divergence
from seekr_lite.attention.maps import NO_ROW, MapShape, all_rows

EXACT = 1e-15  # rounding of sums of numbers up to 1 in fp64


@dataclass(frozen=True)
class Maps:
    """Two maps of some pairs: of a student and of a teacher."""

    query: torch.Tensor
    key: torch.Tensor
    teacher_query: torch.Tensor
    teacher_key: torch.Tensor
    shape: MapShape

    def divergence(self, epsilon: float = 0.0, chunk_rows: int = 128) -> torch.Tensor:
        return attention_divergence(
            self.query, self.key, self.teacher_query, self.teacher_key, self.shape, epsilon, chunk_rows
        )


@st.composite
def maps(draw: st.DrawFn) -> Maps:
    pairs, tokens, size = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    padding = torch.tensor([draw(st.integers(0, tokens - 1)) for _ in range(pairs)])
    rows = all_rows(padding, tokens)
    for pair in range(pairs):
        real = [row for row in rows[pair].tolist() if row >= 0]
        dropped = draw(st.lists(st.sampled_from(real), max_size=len(real) - 1, unique=True))
        rows[pair, dropped] = NO_ROW
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([1e-3, 1.0, 8.0]))
    parts = [spread * torch.randn(pairs, tokens, size, generator=generator, dtype=torch.float64) for _ in range(4)]
    window = draw(st.none() | st.integers(1, tokens))
    return Maps(*parts, MapShape(padding, rows, size**-0.5, window, consecutive=True))


def of_pair(some: Maps, pair: int, rows: torch.Tensor | None = None) -> Maps:
    """One pair alone, with all or some of its rows."""
    one = slice(pair, pair + 1)
    shape = some.shape
    chosen = shape.rows[one] if rows is None else rows[None]
    cut = MapShape(shape.padding[one], chosen, shape.scale, shape.window, consecutive=True)
    return Maps(some.query[one], some.key[one], some.teacher_query[one], some.teacher_key[one], cut)


@given(maps())
def test_equal_maps_have_no_divergence(some: Maps) -> None:
    equal = Maps(some.query, some.key, some.query, some.key, some.shape)
    assert (equal.divergence() == 0).all()


@given(maps())
def test_it_is_never_negative(some: Maps) -> None:
    tokens = some.key.shape[1]
    assert (some.divergence() >= -tokens * EXACT).all()


@given(maps(), st.sampled_from([1e-8, 1e-4, 0.1]))
def test_the_epsilon_lowers_it_by_at_most_n_epsilon(some: Maps, epsilon: float) -> None:
    tokens = some.key.shape[1]
    assert (some.divergence(epsilon) >= -tokens * (epsilon + EXACT)).all()
    assert (some.divergence(epsilon) <= some.divergence() + EXACT).all()


@given(maps())
def test_the_heads_add_up(some: Maps) -> None:
    alone = [of_pair(some, pair).divergence() for pair in range(len(some.query))]
    torch.testing.assert_close(torch.cat(alone), some.divergence(), rtol=1e-12, atol=1e-14)


@given(maps())
def test_the_rows_add_up(some: Maps) -> None:
    """What is a mean over rows is the sum of each row's own divergence over their number."""
    for pair, whole in enumerate(some.divergence().tolist()):
        rows = [row for row in some.shape.rows[pair].tolist() if row >= 0]
        alone = []
        for row in rows:
            only = torch.full_like(some.shape.rows[pair], NO_ROW)
            only[row] = row
            alone.append(of_pair(some, pair, only).divergence().item())
        assert sum(alone) / len(alone) == pytest.approx(whole, rel=1e-12, abs=1e-14)


@given(maps(), st.integers(1, 4))
def test_left_padding_does_not_matter(some: Maps, more: int) -> None:
    pairs, _, size = some.query.shape
    front = torch.full((pairs, more, size), 7.0, dtype=torch.float64)
    rows = torch.where(some.shape.counted, some.shape.rows + more, NO_ROW)
    shape = MapShape(
        some.shape.padding + more,
        torch.cat([torch.full((pairs, more), NO_ROW), rows], 1),
        some.shape.scale,
        some.shape.window,
        consecutive=True,
    )
    parts = (some.query, some.key, some.teacher_query, some.teacher_key)
    padded = Maps(*(torch.cat([front, part], 1) for part in parts), shape)
    torch.testing.assert_close(padded.divergence(1e-8), some.divergence(1e-8), rtol=1e-12, atol=1e-14)


@given(maps(), st.sampled_from([-1e4, 0.0, 1e4]))
def test_what_masked_entries_hold_does_not_matter(some: Maps, content: float) -> None:
    hidden = torch.arange(some.key.shape[1]) < some.shape.padding[:, None]
    changed = Maps(
        some.query.masked_fill(hidden[..., None], content),
        some.key.masked_fill(hidden[..., None], content),
        some.teacher_query.masked_fill(hidden[..., None], -content),
        some.teacher_key.masked_fill(hidden[..., None], 2 * content),
        some.shape,
    )
    assert torch.equal(changed.divergence(1e-8), some.divergence(1e-8))


@given(maps(), st.integers(1, 10), st.sampled_from([0.0, 1e-8]))
def test_the_chunk_size_does_not_matter(some: Maps, chunk_rows: int, epsilon: float) -> None:
    torch.testing.assert_close(some.divergence(epsilon, chunk_rows), some.divergence(epsilon), rtol=1e-12, atol=1e-14)


@settings(max_examples=25)
@given(maps(), st.sampled_from([0.0, 1e-8, 0.01]))
def test_the_gradient_is_that_of_the_value(some: Maps, epsilon: float) -> None:
    assert torch.autograd.gradcheck(
        lambda query, key: attention_divergence(
            query, key, some.teacher_query, some.teacher_key, some.shape, epsilon, chunk_rows=4
        ),
        (some.query.clone().requires_grad_(), some.key.clone().requires_grad_()),
        atol=1e-5,
    )
