"""What is set for one run does not reach another one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from seekr_lite.common.progress import Listener, current_listener


def test_two_threads_do_not_mix() -> None:
    both_set = Barrier(2, timeout=10)

    def found_inside(own: Listener) -> Listener:
        with current_listener.set_to(own):
            both_set.wait()
            return current_listener()

    listeners = [Listener(), Listener()]
    with current_listener.set_to(Listener()), ThreadPoolExecutor(2) as threads:
        assert list(threads.map(found_inside, listeners)) == listeners


def test_a_block_that_fails_gives_the_value_back() -> None:
    before = current_listener()
    with pytest.raises(ValueError), current_listener.set_to(Listener()):  # noqa: PT011
        raise ValueError
    assert current_listener() is before


def test_none_leaves_the_value_as_it_is() -> None:
    own = Listener()
    with current_listener.set_to(own), current_listener.set_to(None):
        assert current_listener() is own
