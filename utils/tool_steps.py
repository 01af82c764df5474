"""What the tools that make data and checkpoints propose when they have ended; see `utils.next_steps` for the scripts.

Nothing heavy is imported before it is needed: some of these tools start in a moment.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.hints import beside, command, fresh, python, quoted

#: Tasks of the launcher that fine-tunes a T5.
_T5_TASKS = ("mnli", "qqp", "qnli", "sst2", "rte", "mrpc", "squad")
#: Where the launchers look.
_DATA, _CORPUS, _PLUGINS = Path("data"), Path("data/wikicorpus_128"), Path("checkpoints/plugins")
#: A task that is small.
_SMALL_TASK = "mrpc"
#: Positions from which on the default length of a tool is within them.
_LONG = 128


def after_save_data(saved: list[tuple[str, Path]], data: Path) -> list[str]:
    """Behind the download of tasks: a T5 is fine-tuned on one of them, and a BERT where T5 has no prompt for it.

    Args:
        saved: names of the tasks and where they lie.
    """
    name, place = next((one for one in saved if one[0] == _SMALL_TASK), saved[0])
    is_default = data == _DATA
    if name in _T5_TASKS:
        return [command("scripts/glue/glue.sh", "base", name, *([] if is_default else ["--data_dir", place]))]
    more = [] if is_default else ["--data_dir", place]
    return [command("scripts/minidisc/finetuning.sh", "bert-base-uncased", name, *more)]


def after_plugins(size: str, file: Path) -> list[str]:
    """Behind the download of published plugins: the backbone is fine-tuned, the plugins are adapted to a task."""
    more = [] if file.parent == _PLUGINS else ["--plugin_path", file]
    tuned = command("scripts/glue/glue.sh", size, _SMALL_TASK)
    return [*_fetch(_SMALL_TASK), tuned, command("scripts/glue/glue-mux.sh", size, _SMALL_TASK, *more)]


def after_corpus(folder: Path) -> list[str]:
    """Behind the download of the published corpus: plugins are pre-trained on it."""
    return [command("scripts/wiki.sh", "base", *([] if folder == _CORPUS else ["--data_dir", folder]))]


def after_bert(folder: Path) -> list[str]:
    """Behind the download of a BERT: it is fine-tuned, as a teacher."""
    return [*_fetch(_SMALL_TASK), command("scripts/minidisc/finetuning.sh", folder, _SMALL_TASK)]


def after_own_corpus(file: Path) -> list[str]:
    """Behind a corpus of one's own: plugins are trained on it, once text to validate on lies beside it."""
    names = [path.name.lower() for path in file.parent.iterdir()]
    if not all(any(word in name for name in names) for word in ("train", "valid")):
        return []
    place = ["--task_name", "wiki", "--data_dir", file.parent, "--model_config", "t5-base", "--distil", "hidden"]
    steps = ["--mux_num", 4, "--max_steps", 60000]  # a streamed corpus needs an end; that of the paper
    return [command("train_t5.py", *place, *steps, "--output_dir", fresh(Path("checkpoints/wiki-plugins")))]


def after_embedded(size: str, data: Path, backbone: Path, is_default: bool) -> list[str]:
    """Behind the embedded T5 and its data: the launcher goes on, or where they lie elsewhere a fine-tuning."""
    if is_default:
        return [command("scripts/wiki.sh", size)]
    place = ["--task_name", "sst2", "--data_dir", data / "glue", "--model_config", backbone]
    loop = ["--learning_rate", "1e-3", "--max_seq_length", 96]
    return [command("train_t5.py", *place, "--output_dir", beside(backbone, "sst2"), *loop)]


def after_embedded_bert(size: str, data: Path, bert: Path, is_default: bool) -> list[str]:
    """Behind the embedded BERT: it is fine-tuned as a teacher."""
    if is_default:
        return [
            command("scripts/minidisc/finetuning.sh", size, "sst2"),
            command("scripts/bert/general_distill.sh", size),
        ]
    place = ["--task_name", "sst2", "--data_dir", data / "glue", "--teacher_model", bert]
    loop = ["--learning_rate", "1e-3", "--output_dir", beside(bert, "sst2")]  # it has not been pre-trained
    return [command("task_distill.py", "--mode", "finetune", *place, *loop)]


def after_pregeneration(folder: Path, bert: str, length: int) -> list[str]:
    """Behind pre-generated text: the BERT whose tokenizer made it is decomposed, and taught by itself on it.

    Nothing where the folder of the tokenizer holds no weights.
    """
    from utils.opening.files import has_weights
    from utils.opening.places import model_directory

    directory = Path(model_directory(bert))
    if directory.is_dir() and not has_weights(str(directory)):
        return []
    place = ["--pregenerated_data", folder, "--teacher_model", bert, "--init_from_teacher", *_ranks(directory)]
    rows = ["--max_seq_length", length] if length != _LONG else []
    return [command("general_distill.py", *place, "--output_dir", beside(folder, "student"), *rows)]


def after_augmentation(task: str, data: Path, bert: str) -> list[str]:
    """Behind augmented rows in their usual place: the BERT that made them is fine-tuned on them.

    Args:
        data: the folder of the tasks, or of this one.
    """
    made = fresh(Path(f"checkpoints/augmented-{task}"))
    place = ["--task_name", task, "--data_dir", data, "--aug_train", "--teacher_model", bert]
    return [command("task_distill.py", "--mode", "finetune", *place, "--output_dir", made)]


def after_export(form: str, made: Path) -> list[str]:
    """Behind an exported file, a look at what it takes and gives; a standalone directory has a page of its own."""
    if form == "standalone":
        return [shlex.join(["cat", str(made / "README.md")])]
    code = {
        "onnx": "import onnxruntime; s = onnxruntime.InferenceSession({0}); "
        "print([x.name for x in s.get_inputs()], [x.name for x in s.get_outputs()])",
        "torch": "import torch; g = torch.export.load({0}).graph_signature; print(g.user_inputs, g.user_outputs)",
    }[form]
    written = json.dumps(str(made), ensure_ascii=False, allow_nan=False)
    return [shlex.join([python(), "-c", code.format(written)])]


def request_to(host: str, port: int, task: str, columns: Sequence[str], token_file: Path | None = None) -> str:
    """A request that a server answers, for a look at it; the token is read when it is sent."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    row = dict.fromkeys(columns, "an honest and moving film")
    body = json.dumps({"task": task, "rows": [row]}, allow_nan=False)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1/predict"
    token = [] if token_file is None else [f'-H "Authorization: Bearer $(cat {quoted(token_file)})"']
    return " ".join([shlex.join(["curl", "-s", address, "-H", "content-type: application/json", "-d", body]), *token])


def after_model(model: Path) -> list[str]:
    """Behind a model that was rewritten: what it costs."""
    return [command("utils.cost", "--model", model, *cost_length(model))]


def cost_length(model: Path) -> list[Any]:
    """The flag of a length that a saved model has positions for, where the default of a tool is beyond it."""
    file = model / "config.json"
    most = json.loads(file.read_text(encoding="utf-8")).get("max_position_embeddings") if file.is_file() else None
    return ["--length", most] if isinstance(most, int) and most < _LONG else []


def _fetch(task: str) -> list[str]:
    """The download of a task that is not there."""
    return [] if (_DATA / "glue" / task).is_dir() else [command("utils/save_data.py", "--only", task)]


def _ranks(directory: Path) -> list[str]:
    """Flags of a decomposition that suits a BERT; of one on the hub those of the paper, which has the usual sizes."""
    from utils.tucker.ranks import flags_for, sizes_of

    file = directory / "config.json"
    usual = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    sizes = sizes_of(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else usual)
    return [] if sizes is None else flags_for(sizes)
