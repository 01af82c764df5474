"""Side-by-side speed measurements; every one prints a table of ratios taken inside one run."""

import utils  # noqa: F401  # keeps torchao's remarks out of the first lines
