"""What a run will need, before it starts: memory, disk, tokens, steps, time.

The product's own code runs on tensors without memory (`fake.py`) while an account is kept of what would be alive
(`account.py`); nothing is loaded and no GPU is needed. `measure.py` does the same for real.
"""
