"""Keeps account of the tensors that are alive: how many bytes there are now, and how many there were at the most.

It sees every operation below autograd (forward, recomputation, backward), so it needs no formula of any model. It works
on real tensors and on fake ones (`fake.py`), whose storages have sizes and no memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class MemoryAccount(TorchDispatchMode):
    """Inside the block: `live` and `peak`, in bytes, of all storages that operations made there.

    What was there before (weights, adapters) is not counted, nor is what an operation uses inside itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}  # address of a storage -> where it ends

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = list(_storages(result))
        if made:
            given = {storage._cdata for storage in _storages((args, kwargs))}
            for storage in made:
                if storage._cdata not in given:  # a view, or a result in place, is nothing new
                    self._open(storage)
        return result

    def _open(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def close(_: Any) -> None:
            if self._known.pop(key, None) is not None:
                self.live -= size

        self._known[key] = weakref.ref(storage, close)
        self.live += size
        self.peak = max(self.peak, self.live)


class SavedBytes:
    """Inside the block: `peak`, the most bytes that autograd held for the backward pass at once.

    Each storage counts once; `ignored` ones (weights) do not count. What a checkpointed layer computes again is short
    lived and not counted here (the account sees it).
    """

    def __init__(self, ignored: Iterable[torch.Tensor]) -> None:
        self.live = 0
        self.peak = 0
        self._ignored = {storage._cdata for storage in _storages(list(ignored))}
        self._held: dict[int, int] = {}  # address of a storage -> how many saved tensors are on it
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: torch.Tensor) -> _Saved:
        storage = tensor.untyped_storage()
        # Detached: an operation's own result would hold the graph that holds it.
        key, size, saved = storage._cdata, storage.nbytes(), _Saved(tensor.detach())
        if key not in self._ignored:
            self._held[key] = self._held.get(key, 0) + 1
            if self._held[key] == 1:
                self.live += size
                self.peak = max(self.peak, self.live)
            weakref.finalize(saved, self._release, key, size)
        return saved

    def _release(self, key: int, size: int) -> None:
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
            self.live -= size


class _Saved:
    """A saved tensor; where it ends, the graph has let go of it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def _unpack(saved: _Saved) -> torch.Tensor:
    return saved.tensor


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind these tensors, each once."""
    return sum({storage._cdata: storage.nbytes() for storage in _storages(list(tensors))}.values())


def tensors_in(values: Any) -> Iterator[torch.Tensor]:
    """The tensors among an operation's arguments or results, which nest one in another as lists and dictionaries."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        yield from tensors_in(list(values.values()))


def _storages(values: Any) -> Iterator[Any]:
    return (tensor.untyped_storage() for tensor in tensors_in(values))
