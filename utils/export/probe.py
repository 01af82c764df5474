"""Loads a standalone directory and runs it: `python -I probe.py DIRECTORY SCRATCH`, with nothing of the toolkit.

SCRATCH holds `in.safetensors` with tensors `0.input_ids`, `0.attention_mask`, `1.input_ids`, …; what the model gives is
written to `out.safetensors` as `0.0`, `0.1`, … in the order of `OUTPUTS`.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

#: What is compared, where the model's output has it; as `utils.export.source` has it, which cannot be imported here.
OUTPUTS = (
    ("logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits"),
    ("last_hidden_state", "pooler_output"),
)


def load(directory: Path) -> Any:
    """The model, by the class that `auto_map` names, or by Transformers' own where there is no code."""
    import transformers

    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    heads = [place for name, place in config.get("auto_map", {}).items() if name != "AutoConfig"]
    if not heads:
        return getattr(transformers, config["architectures"][0]).from_pretrained(directory, trust_remote_code=False)
    package = types.ModuleType("standalone")
    package.__path__ = [str(directory)]
    sys.modules["standalone"] = package
    module, name = heads[0].split(".")
    kind = getattr(importlib.import_module(f"standalone.{module}"), name)
    return kind.from_pretrained(directory, trust_remote_code=False)


def main(directory: Path, scratch: Path) -> None:
    """Load, run, write."""
    import torch
    from safetensors.torch import load_file, save_file

    model = load(directory).eval()
    batches: dict[str, dict[str, Any]] = {}
    for name, tensor in load_file(scratch / "in.safetensors").items():
        number, _, key = name.partition(".")
        batches.setdefault(number, {})[key] = tensor
    made = {}
    with torch.inference_mode():
        for number, batch in batches.items():
            found = model(**batch, return_dict=True)
            present = [[found[name] for name in names if found.get(name) is not None] for names in OUTPUTS]
            for i, tensor in enumerate(present[0] or present[1]):
                made[f"{number}.{i}"] = tensor.contiguous()
    save_file(made, scratch / "out.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
