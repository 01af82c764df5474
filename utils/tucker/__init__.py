"""What `general_distill.py` and `task_distill.py` share: BERTs, their decomposition and their distillation."""
