"""The model card, README.md, of a saved model: what it is, what was done to it, what it costs, how to load it.

Numbers are counted here or read from the files of the run that made the model, at the ratio that the model begins with;
of what nobody measured, the card says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metric.cost import parameter_counts
from model import ModelError, edits_of
from model.backbone import family_of
from model.weights import read_json
from utils.export.source import Source
from utils.opening.tokenizers import has_tokenizer
from utils.writing import to_json

#: Files with measurements, in a run's directory or in that of its best model.
_RESULTS = ("evaluation.json", "result.json")
_ARGUMENTS = "arguments.json"
#: Measured costs that a card shows -> how they are called there.
_COSTS = {
    "num_params": "parameters",
    "encoder_params": "parameters of the layers",
    "plugin_params": "parameters of the plugin",
    "delta_bytes": "bytes of the plugin's file",
    "macs": "multiply-accumulates per example",
    "latency_ms": "median latency (ms)",
    "latency_batch": "latency: rows",
    "latency_length": "latency: tokens per row",
    "peak_memory_bytes": "peak memory (bytes)",
}
#: Numbers of a validation's row that are neither its scores nor costs that a card shows.
_NO_SCORES = ("ratio", "latency_p95_ms", "encoder_macs", "plugin_share")
#: Folders in which a run keeps its model: no name of one.
_BEST = ("best", "prediction")
_LICENCE = (
    "The code beside the weights is under the MIT licence. The weights come from the base model, whose licence holds "
    "for them: add it as `license:` to the metadata above before you publish them."
)
_PIPELINES = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSeq2SeqLM": "text2text-generation",
}


def card(source: Source, carries_code: bool, base_model: str | None = None) -> str:
    """The text of README.md.

    Args:
        carries_code: whether the directory has its own modelling file.
        base_model: the hub id or path that the card names as its origin (default: what the run's arguments say).
    """
    origin = base_model or _origin(source.directory)
    sections = [
        "---\n" + "\n".join(_metadata(source, origin)) + "\n---",
        f"# {_title(source)}",
        _origin_sentence(source, origin),
        "## Edits\n\n" + "\n".join(_edits(source)),
        "## Size\n\n" + "\n".join(_size(source)),
        *_measured(source),
        "## How to load\n\n" + "\n".join(_loading(source, carries_code)),
        "## Licence\n\n" + _LICENCE,
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(source: Source, origin: str | None) -> Iterator[str]:
    yield "library_name: transformers"
    if pipeline := _PIPELINES.get(source.loader):
        yield f"pipeline_tag: {pipeline}"
    if origin and _is_hub_id(origin):
        yield f"base_model: {_text(origin)}"
    yield "tags:"
    kinds = [edit["kind"] for edit in source.edits]
    for tag in (*(["compressed"] if kinds else []), family_of(source.model.config), *kinds):
        yield f"- {_text(tag)}"


def _text(value: str) -> str:
    """A string in YAML: JSON's form is valid there, whatever is in it."""
    return to_json(value)


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    is_name = len(parts) <= 2 and not name.startswith((".", "/")) and all(parts) and parts[-1] not in _BEST
    return is_name and not Path(name).exists()


def _name_of(directory: str) -> str:
    """The last folder's, or the run's where that is the folder of its best model; "" where none is left."""
    return next((part for part in reversed(Path(directory).parts) if part not in (*_BEST, "..", "/")), "")


def _title(source: Source) -> str:
    kinds = ", ".join(edit["kind"].replace("_", " ") for edit in source.edits)
    name = family_of(source.model.config).upper().replace("ENCT5", "EncT5")
    return f"{name}, compressed: {kinds}" if kinds else name


def _origin_sentence(source: Source, origin: str | None) -> str:
    base = type(source.model).__name__.removeprefix("Compressed")
    name = origin and (origin if _is_hub_id(origin) else _name_of(origin))
    if not name:
        return f"A `{base}`. The files that it was made from do not say which model it began as."
    return f"A `{base}` that began as `{name}`."


def _edits(source: Source) -> Iterator[str]:
    for edit in source.edits:
        yield f"- {_IN_WORDS.get(edit['kind'], _unknown)(edit)}"
    if not source.edits:
        yield "None: the model is dense."


def _unknown(edit: Mapping[str, Any]) -> str:
    return f"{edit['kind']}: {to_json({name: value for name, value in edit.items() if name != 'kind'})}"


def _plugin(edit: Mapping[str, Any]) -> str:
    tasks = [task for task in edit["tasks"] if task]
    of = f" of the tasks {', '.join(tasks)}" if tasks else ""
    ratios = ", ".join(map(str, edit["ratios"]))
    return (
        f"Compression plugins{of} in front of every encoder FFN, for the ratios {ratios}: an FFN then sees one vector "
        f"in the place of as many. Adapters of width {edit['bottleneck']}."
    )


def _decomposition(edit: Mapping[str, Any]) -> str:
    ranks = {name: edit[name] for name in ("rank_layer", "rank_condim", "rank_dim") if edit.get(name) is not None}
    listed = ", ".join(f"{name} {value}" for name, value in ranks.items())
    expanded = ", expanded by a nonlinearity" if edit.get("is_expand") else ""
    return f"Matrices ({edit['ops']}) decomposed by protocol {edit['protocol']}: {listed}{expanded}."


def _quantization(edit: Mapping[str, Any]) -> str:
    rounded = "rounded to int8 too, at run time" if edit["activations"] == "int8" else "as they come"
    return f"Weights of the layers' linear maps rounded to int8, with a scale per output; activations {rounded}."


_IN_WORDS = {
    "plugin": _plugin,
    "decomposition": _decomposition,
    "pruning": lambda edit: f"Attention heads and FFN neurons pruned to a sparsity of {edit['sparsity']:.0%}.",
    "layer_drop": lambda edit: f"Encoder layers kept: {', '.join(map(str, edit['layers']))}.",
    "embedding": lambda edit: (
        f"Word embedding factorised as {edit['embedding_type']}, order {edit['order']}, rank {edit['rank']}."
    ),
    "quantization": _quantization,
    "lora": lambda edit: f"LoRA of rank {edit['rank']}, alpha {edit['alpha']:g}, on query and value projections.",
}


def _size(source: Source) -> Iterator[str]:
    yield f"- parameters: {parameter_counts(source.model).total:,}"
    weights = sum(path.stat().st_size for path in source.directory.glob("*.safetensors"))
    if weights:
        yield f"- bytes of the weights it was exported from: {weights:,}"


def _measured(source: Source) -> Iterator[str]:
    """A section per file of measurements, found beside the model or in the run's directory above it."""
    directory, at = source.directory, _at_ratio(source)
    is_silent = True
    for place in dict.fromkeys((directory, directory.parent)) if directory.name == "best" else (directory,):
        for name in _RESULTS:
            by_ratio = _by_ratio(_json(place / name))
            if table := _table(by_ratio.get(source.ratio, {})):
                yield f"## Measured{at} (`{name}`)\n\n{table}"
            elif others := [str(ratio) for ratio, row in by_ratio.items() if _table(row)]:
                listed = f"ratio{'s' * (len(others) > 1)} {', '.join(others)}"
                yield f"## Measured{at} (`{name}`)\n\nNot measured: the file has numbers of {listed}."
            else:
                continue
            is_silent = False
    if is_silent:
        yield f"## Measured{at}\n\nNot measured: there is no file of measurements beside the model."


def _at_ratio(source: Source) -> str:
    return f" at ratio {source.ratio}" if any(edit["kind"] == "plugin" for edit in source.edits) else ""


def _by_ratio(found: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Ratio -> what a file of results has of it; what says no ratio is of the model without plugins, 1."""
    ratios, rows = found.get("ratios"), found.get("rows")
    if isinstance(ratios, dict):
        return {int(ratio): row for ratio, row in ratios.items() if ratio.isdecimal() and isinstance(row, dict)}
    if isinstance(rows, list):
        rows = [row for row in rows if isinstance(row, dict)]
        # A validation's scores stand among its costs.
        return {
            row.get("ratio", 1): {"metrics": _scores(row), **row} for row in rows if _is_number(row.get("ratio", 1))
        }
    return {1: dict(found)}


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in {*_COSTS, *_NO_SCORES}}


def _table(row: Mapping[str, Any]) -> str:
    """Scores and costs, and what of the two is missing; nothing where neither is there."""
    costs = [(title, row[name]) for name, title in _COSTS.items() if _is_number(row.get(name))]
    metrics = row.get("metrics")
    given = metrics if isinstance(metrics, dict) else _scores(row) if costs else {}
    scores = [(name, value) for name, value in given.items() if _is_number(value)]
    if not costs and not scores:
        return ""
    title = f"{row['name']}\n\n" if isinstance(row.get("name"), str) else ""
    lines = [f"| {name} | {_number(value)} |" for name, value in scores + costs]
    missing = [f"| {what} | not measured |" for what, cells in (("scores", scores), ("costs", costs)) if not cells]
    return title + "\n".join(["| what | value |", "|---|---|", *lines, *missing])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _json(path: Path) -> dict[str, Any]:
    """A file's values; none where there is no such file, or it is damaged: a card is no place to fail for it."""
    try:
        return read_json(path)
    except ModelError:
        return {}


def _origin(directory: Path) -> str | None:
    """The model that a run began from, as its arguments say."""
    arguments = _json(directory / _ARGUMENTS) or _json(directory.parent / _ARGUMENTS)
    given = arguments.get("arguments", {})
    for name in ("teacher_model", "student_model", "model_config", "model"):
        if isinstance(given, dict) and isinstance(given.get(name), str):
            return str(given[name])
    return None


def _loading(source: Source, carries_code: bool) -> Iterator[str]:
    yield "```python"
    if edits_of(source.model) and not carries_code:
        yield "import model  # the toolkit, which knows the edits"
    tokenizer = ", AutoTokenizer" if has_tokenizer(str(source.directory)) else ""
    yield f"from transformers import {source.loader}{tokenizer}\n"
    trust = ", trust_remote_code=True" if carries_code else ""
    yield f'model = {source.loader}.from_pretrained("DIRECTORY_OR_HUB_ID"{trust})'
    if tokenizer:
        # AutoTokenizer reads the config too, and would ask whether to run its code.
        yield f'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY_OR_HUB_ID"{trust})'
    if carries_code and any(edit["kind"] == "plugin" for edit in source.edits):
        yield f"model.set_ratio({source.ratio}{f', {source.task!r}' if source.task else ''})  # 1: without plugins"
    yield "```"
    if carries_code:
        yield "\n`trust_remote_code=True` runs the Python files beside the weights: read them first."
