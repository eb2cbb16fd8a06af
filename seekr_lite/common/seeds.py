"""Random numbers that depend on the run's seed and on what they are for, never on what was drawn before.

That is what makes a run that is continued, or resumed, equal to one that never stopped.
"""

from __future__ import annotations

import hashlib
import random


def seed_for(seed: int, *purpose: object) -> int:
    """A seed of 63 bits for one purpose, for example `seed_for(1234, "order", task_index)`."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *purpose: object) -> random.Random:
    """Python's generator, seeded for one purpose."""
    return random.Random(seed_for(seed, *purpose))
