"""What the entry scripts share, and the command-line tools of the toolkit (`python -m utils.NAME`)."""
