"""The embedded default: a backbone, a tokenizer, a corpus and tasks made on the spot, without any download.

`python -m utils.embedded --size tiny` writes them all; see `utils/embedded/build.py` for the layout.
"""
