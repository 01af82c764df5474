"""Parity of the plugin, its losses and the published formats with the original's golden arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import LoraConfig, PluginConfig, apply_edit, use_ratio
from model.delta import load_delta_state
from model.heads import Seq2SeqHead, VerbalizerHead
from model.losses import token_cross_entropy
from model.modelcenter import convert_modelcenter
from model.plugin.mux import MuxLayer
from model.plugin.objective import PluginObjective, freeze_for
from model.plugin.published import (
    ORIGINAL_DECODER_START,
    load_published_plugin,
    original_logit_scale,
)
from model.weights import read_torch_file
from tests.parity.cases import build_t5, close, load, part


def check_mux(directory: Path, name: str) -> None:
    """mux and demux alone, in published and in Hugging Face units, for every k of the case."""
    description, arrays = load(directory, name)
    for k in description["ks"]:
        case = part(arrays, f"k{k}")
        for scale, suffix in ((1.0, ""), (100.0, "_hf")):
            layer = MuxLayer(
                case["x"].shape[-1], k, case["param/mux_layer.0.demux_adapter.w_in.bias"].numel(), scale
            ).double()
            layer.load_state_dict({key.removeprefix("mux_layer.0."): v for key, v in part(case, "param").items()})
            compressed: list[Tensor] = []
            out = layer(case["x"], _recording_ffn(case["y" + suffix], compressed))
            close(compressed[0], case["mux"], f"k={k} mux")
            close(out, case["demux" + suffix], f"k={k} demux{suffix}")


def _recording_ffn(output: Tensor, seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """An FFN that keeps its input and gives a fixed output."""

    def ffn(x: Tensor) -> Tensor:
        seen.append(x)
        return output

    return ffn


def _with_plugin(arrays: dict[str, Tensor], config: dict[str, Any], original: bool, key: str = "plugin") -> Any:
    model = build_t5(config, part(arrays, "w"), original)
    plugin = part(arrays, key)
    edit = PluginConfig((config["k"],), config.get("mid_dim", 64), 100.0, compat="original" if original else "grouping")
    apply_edit(model, edit)
    load_delta_state(model, edit, {f"ratio_{config['k']}.{k}": v for k, v in plugin.items()}, "the golden plugin")
    return model


def _run(model: Any, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        out = model(
            input_ids=arrays["input_ids"],
            attention_mask=arrays["attention_mask"],
            decoder_input_ids=arrays["decoder_input_ids"],
            decoder_attention_mask=arrays["decoder_attention_mask"],
            output_hidden_states=True,
        )
    return {
        "enc": out.encoder_last_hidden_state,
        "dec": out.decoder_hidden_states[-1],
        "logits": out.logits,
        "enc_blocks": torch.stack(out.encoder_hidden_states[1:-1]) if len(out.encoder_hidden_states) > 2 else None,
    }


def _compare(found: dict[str, Tensor], expected: dict[str, Tensor], inputs: dict[str, Tensor], what: str) -> None:
    encoder, decoder = inputs["attention_mask"].bool(), inputs["decoder_attention_mask"].bool()
    close(found["enc"][encoder], expected["enc"][encoder], f"{what} encoder")
    for key in ("dec", "logits"):
        close(found[key][decoder], expected[key][decoder], f"{what} {key}")


def check_t5(directory: Path, name: str) -> None:
    """A whole T5 with plugins off and on, with the original's maths and inside an unmodified Hugging Face T5."""
    description, arrays = load(directory, name)
    for mode in ("orig", "hf"):
        model = _with_plugin(arrays, description["config"], mode == "orig")
        for switch, ratio in (("off", 1), ("on", description["config"]["k"])):
            with use_ratio(model, ratio):
                found = _run(model, arrays)
            _compare(found, part(arrays, f"{mode}_{switch}"), arrays, f"{mode}_{switch}")
            blocks = arrays.get(f"{mode}_{switch}/enc_blocks")
            if blocks is not None:
                real = arrays["attention_mask"].bool()
                for i in range(found["enc_blocks"].shape[0]):
                    close(found["enc_blocks"][i][real], blocks[i][real], f"{mode}_{switch} block {i}")


def check_lora(directory: Path, name: str) -> None:
    """LoRA on q and v of self-attention, with plugins off and on."""
    description, arrays = load(directory, name)
    t5, t5_arrays = load(directory, "variator_t5")
    for mode in ("orig", "hf"):
        model = build_t5(t5["config"], part(t5_arrays, "w"), mode == "orig")
        lora = LoraConfig(description["r"], description["lora_alpha"])
        apply_edit(model, lora)
        tensors = {k.split("/")[-1]: v for k, v in arrays.items() if "project_" in k and "lora" in k}
        known = set(lora.own_modules(model))  # the original also made unused decoder entries
        used = {k: v for k, v in tensors.items() if k.rsplit(".", 1)[0] in known}
        load_delta_state(model, lora, used, "the golden LoRA")
        k = t5["config"]["k"]
        edit = PluginConfig(
            (k,), t5["config"].get("mid_dim", 64), 100.0, compat="original" if mode == "orig" else "grouping"
        )
        apply_edit(model, edit)
        load_delta_state(model, edit, {f"ratio_{k}.{n}": v for n, v in part(t5_arrays, "plugin").items()}, "plugin")
        for switch, ratio in (("off", 1), ("on", k)):
            with use_ratio(model, ratio):
                _compare(_run(model, t5_arrays), part(arrays, f"{mode}_{switch}"), t5_arrays, f"{mode}_{switch}")


def check_cls(directory: Path, name: str) -> None:
    """Verbalizer scores, raw and Hugging Face scaled, losses and predictions."""
    description, arrays = load(directory, name)
    t5, t5_arrays = load(directory, "variator_t5")
    ids = arrays["verbalizer_ids"].tolist()
    batch = {k: arrays[k] for k in ("input_ids", "attention_mask", "labels")}
    start = arrays["decoder_input_ids"][0].tolist()
    assert start[0] == ORIGINAL_DECODER_START
    for mode in ("orig", "hf"):
        model = _with_plugin(t5_arrays, t5["config"], mode == "orig")
        raw_scale = original_logit_scale(model.config)
        for switch, ratio in (("off", 1), ("on", t5["config"]["k"])):
            expected, scalars = part(arrays, f"{mode}_{switch}"), description["scalars"][f"{mode}_{switch}"]
            with use_ratio(model, ratio), torch.no_grad():
                scores = VerbalizerHead(ids, start[1], start[0])(model, batch).scores
            close(scores, expected["scores_hf"], f"{mode}_{switch} scores")
            close(scores * raw_scale, expected["scores_raw"], f"{mode}_{switch} raw scores")
            close(token_cross_entropy(scores, batch["labels"]), scalars["loss_hf_scaled"], "loss")
            close(token_cross_entropy(scores * raw_scale, batch["labels"]), scalars["loss_raw"], "raw loss")
            assert torch.equal(scores.argmax(-1), expected["pred"])


def check_distil(directory: Path, name: str) -> None:
    """Losses of every `--distil` mode and the gradients of every plugin tensor."""
    description, arrays = load(directory, name)
    t5, t5_arrays = load(directory, "variator_t5")
    model = _with_plugin(t5_arrays, t5["config"], original=True)
    freeze_for(model, "hidden", delta_tuning=False)
    k, raw = t5["config"]["k"], original_logit_scale(model.config)
    _, cls = load(directory, "variator_cls")
    kinds: dict[str, Any] = {
        "seq2seq": (
            Seq2SeqHead(),
            {**t5_arrays, "labels": arrays["labels"]},
            description["scalars"]["seq2seq"],
        ),
        "classification": (
            VerbalizerHead(description["verbalizer_ids"], int(cls["decoder_input_ids"][0, 1]), 2, raw),
            {**{n: t5_arrays[n] for n in ("input_ids", "attention_mask")}, "labels": arrays["cls/labels"]},
            description["scalars"]["classification"],
        ),
    }
    edit = PluginConfig((k,))
    for kind, (head, batch, scalars) in kinds.items():
        off, _ = PluginObjective(model, head)(batch)
        close(off, scalars["loss_no_plugins_off"], f"{kind} no")
        ratios = [float(key.split("ratio")[1]) for key in scalars if key.startswith("loss_task-hidden_ratio")]
        modes: list[tuple[Any, float]] = [("hidden", 1.0), ("task", 1.0), *(("task-hidden", r) for r in ratios)]
        for mode, task_ratio in modes:
            model.zero_grad()
            loss, logs = PluginObjective(model, head, mode, (k,), task_ratio)(batch)
            suffix = f"_ratio{task_ratio}" if mode == "task-hidden" else ""
            close(loss, scalars[f"loss_{mode}{suffix}"], f"{kind} {mode} loss")
            if "mse_loss" in logs:
                close(logs["mse_loss"], scalars["mse"], f"{kind} mse")
            if task_ratio != 1.0:
                continue
            loss.backward()
            found = {
                f"{prefix}.{n}".removeprefix(f"ratio_{k}."): torch.as_tensor(p.grad)
                for prefix, module in edit.own_modules(model).items()
                for n, p in module.named_parameters()
            }
            for key, expected in part(arrays, f"grad/{kind}/{mode}").items():
                close(found[key], expected, f"{kind} {mode} gradient of {key}")
            norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in found.values()]))
            close(norm, scalars[f"grad_norm_{mode}"], f"{kind} {mode} gradient norm")


def check_published(directory: Path, name: str) -> None:
    """A published-format plugin file, and a full original checkpoint, give the original's outputs."""
    description, arrays = load(directory, name)
    t5, inputs = load(directory, "variator_t5")
    k = description["k"]
    plugin_file = next(directory.glob(f"variator_plugin-t5_*-mux_{k}.pkl"))
    full_file = next(directory.glob("variator_best_model_*.pt"))
    converted = {n: v.double() for n, v in convert_modelcenter(read_torch_file(full_file)).items()}
    for key, expected in part(arrays, "hfw").items():
        close(converted[key], expected, f"converted {key}")
    for mode in ("orig", "hf"):
        sources = {"plugin": (part(inputs, "w"), plugin_file), "full": (converted, full_file)}
        for what, (weights, file) in sources.items():
            model = build_t5(t5["config"], weights, mode == "orig")
            load_published_plugin(model, file, compat="original" if mode == "orig" else "grouping")
            for switch, ratio in (("off", 1), ("on", k)):
                if expected_arrays := part(arrays, f"{what}/{mode}_{switch}"):
                    with use_ratio(model, ratio):
                        _compare(_run(model, inputs), expected_arrays, inputs, f"{what} {mode}_{switch}")
