"""What `train_t5.py` assembles: its arguments, its data, its model, its evaluation and its report."""
