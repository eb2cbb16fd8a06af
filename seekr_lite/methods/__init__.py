"""Continual-learning methods, one file each, behind the interface of `method.py`."""
