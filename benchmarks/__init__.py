"""Side-by-side speed measurements; every one prints a table of ratios taken inside one run."""
