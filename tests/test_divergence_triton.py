"""The Triton kernels against the plain version: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from seekr_lite.attention import divergence, divergence_triton
from seekr_lite.attention.divergence import triton_serves
from seekr_lite.attention.maps import NO_ROW, MapShape, all_rows

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of masked entries

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TILE = (32, 16)  # small, so that small problems have several blocks
WINDOWS = [None, 3]
EPSILONS = [0.0, 1e-8, 0.01]


@pytest.fixture(autouse=True)
def bfloat16_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter holds bfloat16 as uint16, and its dot multiplies these."""
    from triton.runtime.interpreter import InterpreterBuilder

    dot = InterpreterBuilder.create_dot

    def float_dot(self: Any, left: Any, right: Any, *rest: Any) -> Any:
        wide = [
            SimpleNamespace(dtype=part.dtype, data=torch.from_numpy(part.data).view(torch.bfloat16).float().numpy())
            if "bf16" in str(part.dtype)
            else part
            for part in (left, right)
        ]
        return dot(self, *wide, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", float_dot)


def some_heads(pairs: int, m: int, n: int, d: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """query, key, teacher query, teacher key."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(pairs, tokens, d, generator=generator).to(DEVICE, dtype) for _ in range(2) for tokens in (m, n)]


def assert_as_plain(heads: Any, shape: MapShape, epsilon: float) -> None:
    expected = divergence.divergence_and_gradient(*heads, shape, epsilon, with_gradient=True)
    actual = divergence_triton.divergence_and_gradient(*heads, shape, epsilon, with_gradient=True, tile=TILE)
    torch.testing.assert_close(actual.value, expected.value, rtol=1e-5, atol=1e-6)
    for gradient, of_plain in ((actual.grad_query, expected.grad_query), (actual.grad_key, expected.grad_key)):
        assert gradient.dtype == divergence.kept_dtype(heads[0])
        rounding = torch.finfo(torch.bfloat16).eps if gradient.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(gradient.float(), of_plain, rtol=rounding, atol=1e-6)


def all_but_some_rows(n: int, window: int | None = None) -> MapShape:
    """No row, three at the end, and 17 pad tokens with another hole: blocks begin and end with NO_ROW."""
    padding = torch.tensor([0, 3, 17])
    rows = all_rows(padding, n)
    rows[1, -5:] = NO_ROW
    rows[2, 30:34] = NO_ROW
    return MapShape(padding.to(DEVICE), rows.to(DEVICE), 0.4, window, consecutive=True)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_all_rows(window: int | None, epsilon: float) -> None:
    assert_as_plain(some_heads(3, 41, 41, 20), all_but_some_rows(41, window), epsilon)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits(epsilon: float, dtype: torch.dtype) -> None:
    assert_as_plain(some_heads(3, 41, 41, 20, dtype), all_but_some_rows(41), epsilon)


@pytest.mark.parametrize(("window", "d"), [(None, 16), (3, 33), (20, 16)])
def test_chosen_rows(window: int | None, d: int) -> None:
    n = 70
    wanted = torch.full((3, 35), NO_ROW)
    wanted[0] = torch.arange(34, 69)
    wanted[1, [0, 4, 33, 34]] = torch.tensor([8, 31, 32, 69])
    wanted[2, 10:20] = torch.arange(50, 60)
    shape = MapShape(torch.tensor([0, 8, 40]).to(DEVICE), wanted.to(DEVICE), 0.4, window)
    assert_as_plain(some_heads(3, 35, n, d), shape, epsilon=1e-8)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 50))
    padding, rows = [], []
    m = data.draw(st.integers(1, 50))
    for _ in range(data.draw(st.integers(1, 2))):
        padding.append(data.draw(st.integers(0, n - 1)))
        places = data.draw(st.sets(st.integers(0, m - 1), min_size=1, max_size=n - padding[-1]))
        chosen = data.draw(st.sets(st.integers(padding[-1], n - 1), min_size=len(places), max_size=len(places)))
        row = torch.full((m,), NO_ROW)
        row[sorted(places)] = torch.tensor(sorted(chosen))
        rows.append(row)
    shape = MapShape(
        torch.tensor(padding, device=DEVICE),
        torch.stack(rows).to(DEVICE),
        scale=0.3,
        window=data.draw(st.none() | st.integers(1, 60)),
    )
    heads = some_heads(len(rows), m, n, data.draw(st.integers(1, 40)), seed=data.draw(st.integers(0, 99)))
    assert_as_plain(heads, shape, data.draw(st.sampled_from(EPSILONS)))


@pytest.mark.parametrize("window", WINDOWS)
def test_no_visible_key_is_skipped(window: int | None) -> None:
    """Student and teacher differ in one key alone, another one for each pair; the first and last row to see it tell."""
    n = 36
    changed = torch.tensor([0, 1, 15, 16, 17, 31, 32, 33, 35], device=DEVICE)  # beside the blocks' borders
    pair = torch.arange(len(changed), device=DEVICE)
    query, key, *_ = some_heads(len(changed), 2, n, 16)
    teacher_key = key.clone()
    teacher_key[pair, changed] += query[:, 1]
    last = torch.full_like(changed, n - 1) if window is None else (changed + window - 1).clamp(max=n - 1)
    for row in (changed, last):
        rows = torch.stack([torch.full_like(row, NO_ROW), row], dim=1)
        shape = MapShape(torch.zeros_like(changed), rows, 0.4, window)
        heads = query, key, query, teacher_key
        result = divergence_triton.divergence_and_gradient(*heads, shape, 0.0, with_gradient=True, tile=TILE)
        assert result.grad_key is not None
        tells = row > 0  # row 0 sees key 0 alone: whatever it is, the map is 1
        assert (result.value[tells] > 0).all()
        assert (result.grad_key[pair, changed].norm(dim=-1)[tells] > 0).all()


def test_equal_maps_have_no_divergence() -> None:
    query, key, *_ = some_heads(3, 41, 41, 16)
    result = divergence_triton.divergence_and_gradient(query, key, query, key, all_but_some_rows(41), 0.0, False)
    assert (result.value == 0).all()
    assert result.grad_query is None
    assert result.grad_key is None


@pytest.mark.parametrize(("pairs", "m"), [(0, 5), (2, 0)])
def test_nothing_to_compare(pairs: int, m: int) -> None:
    rows = torch.arange(m, device=DEVICE).expand(pairs, m)
    shape = MapShape(torch.zeros(pairs, dtype=torch.long, device=DEVICE), rows, 0.4)
    assert_as_plain(some_heads(pairs, m, 5, 16), shape, epsilon=1e-8)


# ------------------------------------------------------------------ the choice between the versions


def served(
    monkeypatch: pytest.MonkeyPatch, works: bool = True, capability: tuple[int, int] = (8, 6), **changes: Any
) -> bool:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(divergence_triton, "works", lambda *problem: works)
    part: Any = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, device=torch.device("cuda"), shape=(1, 2, 16))
    return triton_serves(SimpleNamespace(**vars(part) | changes), part, part, part, 1e-8)  # type: ignore[arg-type]


def test_triton_serves_gpus_in_up_to_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert served(monkeypatch)
    assert not served(monkeypatch, works=False)
    assert not served(monkeypatch, capability=(7, 5))
    assert not served(monkeypatch, is_cuda=False)
    assert not served(monkeypatch, dtype=torch.float32)  # of query alone
    monkeypatch.setattr(divergence, "find_spec", lambda name: None)
    assert not served(monkeypatch)


def test_the_choice_reaches_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through autograd the kernels say what the plain version says."""
    heads, shape = some_heads(3, 41, 41, 16), all_but_some_rows(41)
    results = []
    for serves in (True, False):
        monkeypatch.setattr(divergence, "triton_serves", lambda *problem, serves=serves: serves)
        query, key = (part.clone().requires_grad_() for part in heads[:2])
        value = divergence.attention_divergence(query, key, *heads[2:], shape)
        results.append((value.detach(), *torch.autograd.grad(value.sum(), [query, key])))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_fp64_is_not_served() -> None:
    assert not triton_serves(*some_heads(1, 2, 2, 16, torch.float64), 1e-8)


def trial(caplog: pytest.LogCaptureFixture) -> tuple[bool, list[str]]:
    divergence_triton.works.cache_clear()
    with caplog.at_level(logging.WARNING):
        works = [divergence_triton.works(DEVICE, torch.float32, 16, 1e-8) for _ in range(2)]
    divergence_triton.works.cache_clear()
    assert works[0] == works[1]
    return works[0], caplog.messages


def test_the_trial_finds_that_kernels_work(caplog: pytest.LogCaptureFixture) -> None:
    assert trial(caplog) == (True, [])


def test_kernels_that_do_not_compile_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*problem: Any) -> Any:
        raise RuntimeError("no C compiler\nand more")

    monkeypatch.setattr(divergence_triton, "divergence_and_gradient", fails)
    works, messages = trial(caplog)
    assert not works
    assert messages == ["attention maps are compared without Triton, at more memory (RuntimeError: no C compiler)"]


def test_kernels_that_are_wrong_are_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    right = divergence_triton.divergence_and_gradient

    def wrong(*problem: Any) -> Any:
        result = right(*problem)
        result.grad_key[0, 0] = torch.nan
        return result

    monkeypatch.setattr(divergence_triton, "divergence_and_gradient", wrong)
    works, messages = trial(caplog)
    assert not works
    assert len(messages) == 1
    assert "wrong results" in messages[0]
