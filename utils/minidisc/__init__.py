"""MiniDisc behind `task_distill.py`: sparsify, then distil at once, along a path, or over a chosen assistant."""
