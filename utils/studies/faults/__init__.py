"""The table in docs/faults.md: each fault, how often it was tried, and what came of it."""
