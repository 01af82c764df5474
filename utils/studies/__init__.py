"""Studies on real data: every stage of a result table over seeds and controls, resumable, and the page it makes."""
