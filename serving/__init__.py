"""A server of predictions whose compression ratio follows the load: `python -m serving --model DIR`."""
