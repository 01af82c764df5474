"""What large models need on many GPUs, worked out from shapes: `python -m utils.scaling`, docs/scaling.md."""
