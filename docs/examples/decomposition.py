"""A BERT whose matrices become mixtures of one shared bank: decompose, look at the error, choose how it runs, save.

python -m docs.examples.decomposition                      # a tiny BERT made on the spot
python -m docs.examples.decomposition bert-base-uncased    # or any BERT
"""

import sys
import tempfile

import model  # noqa: F401  # first: makes AutoModel know compressed models, and what it loads quiet

# isort: split
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from model import DecompositionConfig, apply_edit, optimize_for_inference, relative_errors

torch.manual_seed(0)
if len(sys.argv) > 1:
    bert = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
else:
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128
    )
    bert = BertForSequenceClassification(config).eval()

ids = torch.randint(5, 60, (8, 24))
width, layers = bert.config.hidden_size, bert.config.num_hidden_layers
before = sum(parameter.numel() for parameter in bert.base_model.encoder.parameters())

# Half of every dimension: about a sixth of the layers' parameters. Distil it afterwards (general_distill.py).
edit = DecompositionConfig(rank_layer=6 * layers, rank_condim=width // 2, rank_dim=width // 2)
apply_edit(bert, edit)
after = sum(parameter.numel() for parameter in bert.base_model.encoder.parameters())
print(f"layers: {before:,} -> {after:,} parameters; relative error of the matrices {relative_errors(bert).overall:.3f}")

with torch.no_grad():
    wanted = bert(input_ids=ids).logits
    optimize_for_inference(bert, 8, 24)  # the cheaper way through the factors for this shape, fixed
    difference = (bert(input_ids=ids).logits - wanted).abs().max()
    print(f"another way through the same factors: logits differ by {difference:.1e}")

with tempfile.TemporaryDirectory() as folder:
    bert.save_pretrained(folder)
    again = AutoModelForSequenceClassification.from_pretrained(folder).eval()
with torch.no_grad():
    difference = (again(input_ids=ids).logits - wanted).abs().max()
print(f"loaded again: {again.config.model_type}, logits differ by {difference:.1e}")
