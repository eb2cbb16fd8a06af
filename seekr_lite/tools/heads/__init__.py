"""The attention heads of a run: scores, studies, grafts."""
