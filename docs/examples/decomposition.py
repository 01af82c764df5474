"""A BERT whose matrices become mixtures of one shared bank: decompose, distil a little, choose how it runs, save.

python -m docs.examples.decomposition                      # a tiny BERT made on the spot
python -m docs.examples.decomposition bert-base-uncased    # or any BERT
"""

import copy
import sys
import tempfile

import model  # noqa: F401  # first: makes AutoModel know compressed models, and what it loads quiet

# isort: split
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from model import DecompositionConfig, apply_edit, optimize_for_inference, relative_errors

torch.manual_seed(0)
if len(sys.argv) > 1:
    bert = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=False).eval()
else:
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        initializer_range=0.15,  # larger than usual, so that layers matter without training
    )
    bert = BertForSequenceClassification(config).eval()

ids = torch.randint(5, 60, (8, 24))
width, layers = bert.config.hidden_size, bert.config.num_hidden_layers


def layer_params() -> int:
    """Parameters of the layers and of the bank that stands for their matrices."""
    own = bert.base_model.named_parameters()
    return sum(parameter.numel() for name, parameter in own if not name.startswith(("embeddings.", "pooler.")))


before = layer_params()

# Half of every dimension: about a fifth of the layers' parameters, and what they computed is lost in part.
teacher = copy.deepcopy(bert)
edit = DecompositionConfig(rank_layer=6 * layers, rank_condim=width // 2, rank_dim=width // 2)
apply_edit(bert, edit)
print(f"layers: {before:,} -> {layer_params():,} parameters; error of the matrices {relative_errors(bert).overall:.3f}")

# Distillation brings it back: here the last hidden states on one batch; general_distill.py does it on text.
with torch.no_grad():
    target = teacher.base_model(input_ids=ids).last_hidden_state
optimizer = torch.optim.AdamW(bert.parameters(), lr=1e-2)
for step in range(41):
    loss = (bert.base_model(input_ids=ids).last_hidden_state - target).square().mean()
    if step % 20 == 0:
        print(f"after {step} steps: hidden states differ from the teacher's by {loss.detach().sqrt():.3f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    wanted = bert(input_ids=ids).logits
    optimize_for_inference(bert, 8, 24)  # the cheaper way through the factors for this shape, fixed
    difference = (bert(input_ids=ids).logits - wanted).abs().max()
    print(f"another way through the same factors: logits differ by {difference:.1e}")

with tempfile.TemporaryDirectory() as folder:
    bert.save_pretrained(folder)
    again = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval()
with torch.no_grad():
    difference = (again(input_ids=ids).logits - wanted).abs().max()
print(f"loaded again: {again.config.model_type}, logits differ by {difference:.1e}")
