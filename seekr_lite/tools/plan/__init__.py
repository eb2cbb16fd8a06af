"""What a run will need, before it starts: memory, disk, tokens, steps, time.

`shapes.py` has the sizes of the base, `memory.py` the formula of what is alive at the peak of each phase, and `plan.py`
puts them together; nothing is loaded and no GPU is needed. `measure.py` runs the longest steps for real.
"""
