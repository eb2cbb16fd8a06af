"""Continual-learning methods, one file each (the small baselines in one), behind the interface of `method.py`."""
