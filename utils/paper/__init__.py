"""The papers' grids of runs, and what they reached beside what the papers announce."""
