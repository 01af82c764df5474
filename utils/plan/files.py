"""What the small files of a saved model and of its run say; no model is loaded."""

from __future__ import annotations

from pathlib import Path

from model.backbone import family_of
from model.compression import EditConfig, edits_from
from model.decomposition import DecompositionConfig, is_original
from model.decomposition.embeddings import EmbeddingConfig
from model.pruning import LayerDropConfig, PruningConfig
from model.weights import read_json
from utils.minidisc.stages import RESULT_FILE
from utils.opening.files import check_config
from utils.plan.point import CONFIG
from utils.plan.recorded import Metric


class _Config:
    """`model_type` of a directory, in the form that `family_of` reads."""

    def __init__(self, directory: Path) -> None:
        self.model_type = str(read_json(directory / CONFIG).get("model_type", ""))


def family_in(directory: Path) -> str:
    """The backbone's, of a compressed model as of a dense one."""
    return family_of(_Config(directory))


def edits_in(directory: Path) -> list[EditConfig]:
    """The edits that a saved model carries, in order."""
    return edits_from(read_json(directory / CONFIG).get("compression") or [])


def is_whole(directory: Path) -> bool:
    """Whether nothing but plugins, LoRA or an order of heads and neurons was put on a dense model."""
    smaller = (LayerDropConfig, DecompositionConfig, EmbeddingConfig)
    return not is_original(directory) and not any(
        isinstance(edit, smaller) or (isinstance(edit, PruningConfig) and edit.sparsity) for edit in edits_in(directory)
    )


def run_of(path: Path, directory: Path) -> Path:
    """The folder with the run's files: where `path` is its best/, the one above."""
    return path.parent if path == directory and path.name == "best" else path


def depth_in(directory: Path) -> int:
    """How many layers the encoder has; 0 where the config does not say it."""
    kept = next((len(edit.layers) for edit in edits_in(directory) if isinstance(edit, LayerDropConfig)), None)
    if kept is not None:
        return kept
    values = check_config(str(directory))
    return int(values.get("num_hidden_layers") or values.get("num_layers") or 0)


def task_of(run: Path, metric: Metric | None) -> str:
    """The task of a run, or that of its metric; "" where neither says it."""
    file = run / RESULT_FILE
    values = read_json(file) if file.is_file() else {}
    return str(values.get("task", values.get("dataset", metric.task if metric else "")))
