"""Runs side by side: one page in HTML, with a chart, and the same in Markdown."""
