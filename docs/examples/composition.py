"""All in one model: fewer heads and neurons, plugins on what is left, int8 weights, one directory.

python -m docs.examples.composition                      # a tiny BERT made on the spot
python -m docs.examples.composition bert-base-uncased    # or any BERT
"""

import sys
import tempfile

import model  # noqa: F401  # first: makes AutoModel know compressed models, and what it loads quiet

# isort: split
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from model import (
    PluginConfig,
    QuantizationConfig,
    apply_edit,
    committed,
    edits_of,
    measure_importance,
    set_ratio,
    sparsify,
)
from utils.cost import measure_model

torch.manual_seed(0)
if len(sys.argv) > 1:
    bert = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=False).eval()
else:
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256
    )
    bert = BertForSequenceClassification(config).eval()

ids = torch.randint(5, 60, (8, 24))
labels = torch.randint(0, 2, (8,))

# Which heads and neurons matter, from the gradients of a few batches; then half of them, in real smaller matrices.
batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}]
sparsify(bert, measure_importance(bert, batches, lambda student, batch: student(**batch).loss))
small = committed(bert, 0.5)
apply_edit(small, PluginConfig(ratios=(2,), bottleneck=16))  # untrained here: task_distill.py --mode adapt trains them
apply_edit(small, QuantizationConfig())

dense = measure_model(bert, 8, 24, repeats=5)
print(
    f"dense: {dense.num_params:,} parameters, {dense.macs / 1e6:.2f} M multiply-accumulates, {dense.latency_ms:.1f} ms"
)

with tempfile.TemporaryDirectory() as folder:
    small.save_pretrained(folder)
    again = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval()
print("edits:", " + ".join(edit.kind for edit in edits_of(again)))
for ratio in (1, 2):
    set_ratio(small, ratio)
    set_ratio(again, ratio)
    with torch.no_grad():
        wanted = small(input_ids=ids).logits
        difference = (again(input_ids=ids).logits - wanted).abs().max() / wanted.abs().max()
    cost = measure_model(again, 8, 24, ratio=ratio, repeats=5)
    print(
        f"k = {ratio}: logits differ by {difference:.1e} after loading, {cost.num_params:,} parameters, "
        f"{cost.macs / 1e6:.2f} M multiply-accumulates, {cost.latency_ms:.1f} ms"
    )
