"""How BERT's training data are made of a text corpus; `utils/pregenerate_training_data.py` is the tool."""
