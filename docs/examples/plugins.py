"""A T5 with compression plugins: attach, train a little, see what each ratio saves, save, load.

python -m docs.examples.plugins            # a tiny T5 made on the spot
python -m docs.examples.plugins t5-base    # or any T5
"""

import sys
import tempfile

import model  # noqa: F401  # first: makes AutoModel know compressed models, and what it loads quiet

# isort: split
import torch
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from metric.cost import count_macs
from model import PluginConfig, apply_edit, set_ratio, undo_edit, use_ratio

torch.manual_seed(0)
if len(sys.argv) > 1:
    t5 = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1], trust_remote_code=False).eval()
else:
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, num_heads=4, d_ff=256, num_layers=2, decoder_start_token_id=0)
    t5 = T5ForConditionalGeneration(config).eval()

ids = torch.randint(5, 60, (8, 24))
start = torch.zeros((8, 1), dtype=torch.long)
with torch.no_grad():
    dense = t5(input_ids=ids, decoder_input_ids=start).logits
    target = t5.encoder(input_ids=ids).last_hidden_state

# Plugins for k = 2 and k = 4. Everything else is frozen; the teacher is the same model without them.
apply_edit(t5, PluginConfig(ratios=(2, 4), bottleneck=16, residual_scale=10.0))
t5.requires_grad_(False)
plugins = [parameter for name, parameter in t5.named_parameters() if ".bank." in name]
for parameter in plugins:
    parameter.requires_grad_(True)
optimizer = torch.optim.AdamW(plugins, lr=1e-2)
for step in range(30):
    losses = []
    for ratio in (2, 4):
        with use_ratio(t5, ratio):
            losses.append((t5.encoder(input_ids=ids).last_hidden_state - target).square().mean())
    optimizer.zero_grad()
    torch.stack(losses).mean().backward()
    optimizer.step()
    if step % 10 == 9:
        print(f"step {step + 1}: difference to the dense encoder {losses[0]:.4f} at k = 2, {losses[1]:.4f} at k = 4")

for ratio in (1, 2, 4):
    with use_ratio(t5, ratio):
        macs = count_macs(lambda: t5.encoder(input_ids=ids[:1]))
    print(f"k = {ratio}: {macs / 1e6:.2f} M multiply-accumulates of the encoder")

set_ratio(t5, 4)  # from now on, in every thread
with tempfile.TemporaryDirectory() as folder:
    t5.save_pretrained(folder)  # plain safetensors and config.json
    again = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=False).eval()
set_ratio(again, 4)
with torch.no_grad():
    found, wanted = (one(input_ids=ids, decoder_input_ids=start).logits for one in (again, t5))
    print(f"loaded again: logits at k = 4 differ by {(found - wanted).abs().max() / wanted.abs().max():.1e}")
    undo_edit(t5, "plugin")
    back = torch.equal(t5(input_ids=ids, decoder_input_ids=start).logits, dense)
print(f"plugins taken off: the dense T5 is back {'bit for bit' if back else 'changed'}")
