"""Makes everything the embedded default consists of, once.

    DATA/corpus/{train,valid}.txt      one span per line
    DATA/glue/{SST-2,MRPC,RTE,…}/*.tsv
    DATA/glue/conll/{train,dev,test}.txt   beside GLUE's tasks: all that task_distill.py reads is in one folder
    DATA/squad/{train,dev}-v1.1.json
    DATA/manifest.json
    BACKBONE/                          untrained T5 and tokenizer, with a manifest.json of its own

DATA is data/{size}, BACKBONE is checkpoints/backbone/{size}/init. Each part is written to a temporary folder
beside its place and renamed when it is complete; its manifest holds the settings it was made with, and as
long as they are the same it is used again. Two calls at once make it once: the second waits for the first.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.embedded.corpus import write_corpus
from utils.embedded.sizes import BACKBONE_SIZES
from utils.embedded.tasks import TASK_FILES, write_glue, write_squad, write_tagged
from utils.errors import UserError
from utils.lock import locked
from utils.writing import atomic_directory, write_json

# Counted up whenever the generators change what they make, so that what is cached is made again.
FORMAT_VERSION = 6
_LIBRARY_BYTES = 1_500_000
_GRAMMAR_BYTES = 1_500_000

Say = Callable[[str], None]


@dataclass(frozen=True)
class EmbeddedPaths:
    """Where the parts are."""

    data: Path
    backbone: Path


def default_paths(size: str, data: Path | None = None, checkpoints: Path = Path("checkpoints")) -> EmbeddedPaths:
    """data/{size} (or `data`) and checkpoints/backbone/{size}/init."""
    return EmbeddedPaths(data or Path("data") / size, checkpoints / "backbone" / size / "init")


def build(size: str, paths: EmbeddedPaths, *, extra_text: Sequence[Path] = (), seed: int = 1, say: Say = print) -> None:
    """Makes data, tokenizer and untrained backbone of `size`, or says that they are there already.

    Args:
        size: `tiny` or `mini`.
        extra_text: further text files (one document per line) the tokenizer is trained on.
        seed: of the grammar, the order of the corpus and the weights.
        say: takes one line per stage.

    Raises:
        UserError: an unknown size, or an extra text file that is not there.
    """
    if size not in BACKBONE_SIZES:
        raise UserError(f"--size {size}: unknown; known: {', '.join(BACKBONE_SIZES)}")
    for file in extra_text:
        if not file.is_file():
            raise UserError(f"--extra_text {file}: no such file")
    data_settings = build_data(paths.data, seed, say)
    backbone_settings = {
        **data_settings,
        "size": asdict(BACKBONE_SIZES[size]),
        "extra_text": [_digest(file) for file in extra_text],
    }
    make_once(
        paths.backbone,
        backbone_settings,
        lambda folder: _write_backbone(folder, size, paths.data / "corpus", extra_text, seed, say),
        f"untrained {size} T5 and tokenizer",
        say,
    )


def build_data(folder: Path, seed: int, say: Say) -> dict[str, Any]:
    """Makes tasks and corpus, or says that they are there already; gives the settings they are made with."""
    settings = {
        "format": FORMAT_VERSION,
        "seed": seed,
        "library_bytes": _LIBRARY_BYTES,
        "grammar_bytes": _GRAMMAR_BYTES,
    }
    make_once(folder, settings, lambda partial: _write_data(partial, seed, say), "tasks and corpus", say)
    return settings


def _write_data(folder: Path, seed: int, say: Say) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for name, task in TASK_FILES.items():
        counts[name] = write_glue(task, folder / "glue", seed)
    counts["conll"] = write_tagged(folder / "glue" / "conll", seed)
    counts["squad"] = write_squad(folder / "squad", seed)
    say(f"  tasks: {', '.join(f'{name} {count}' for name, count in counts.items())} rows")
    train, valid = write_corpus(folder / "corpus", seed, _LIBRARY_BYTES, _GRAMMAR_BYTES)
    say(
        f"  corpus: {train} spans to train on, {valid} to validate, "
        f"from the grammar and the docstrings of Python {platform.python_version()}"
    )
    return {**counts, "corpus_train": train, "corpus_valid": valid, "python": platform.python_version()}


def _write_backbone(
    folder: Path, size: str, corpus: Path, extra_text: Sequence[Path], seed: int, say: Say
) -> dict[str, Any]:
    # Imported here: torch and transformers take seconds, and most calls only find that everything is there.
    from utils.embedded.backbone import write_backbone
    from utils.embedded.tokenizer import train_tokenizer

    sizes = BACKBONE_SIZES[size]
    tokenizer = train_tokenizer([corpus / "train.txt"], sizes.vocab_size, extra_files=extra_text)
    say(f"  tokenizer: {len(tokenizer)} tokens")
    num_params = write_backbone(folder, sizes, tokenizer, seed)
    say(f"  T5: {num_params:,} parameters")
    return {"num_params": num_params, "vocab_size": len(tokenizer)}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def make_once(
    folder: Path, settings: dict[str, Any], write: Callable[[Path], dict[str, Any]], what: str, say: Say
) -> None:
    """Lets `write` make `folder` (by way of a temporary one), unless it was made with these settings.

    What another call is making is waited for, and then used.
    """
    key = hashlib.sha256(json.dumps(settings, sort_keys=True, allow_nan=False).encode()).hexdigest()
    if _key_of(folder / "manifest.json") != key:
        with locked(folder, waiting=say):
            if _key_of(folder / "manifest.json") != key:
                say(f"{what}: making {folder}")
                _make(folder, {"key": key, "settings": settings}, write, say)
                return
    say(f"{what}: reused {folder}")


def _make(folder: Path, record: dict[str, Any], write: Callable[[Path], dict[str, Any]], say: Say) -> None:
    manifest = folder / "manifest.json"
    if folder.exists() and any(folder.iterdir()) and _key_of(manifest) is None:
        raise UserError(
            f"{folder}: holds files that this tool did not make (no manifest.json of its own); choose another folder"
        )
    start = time.perf_counter()
    own = {"manifest.json", *_record(manifest).get("files", [])}
    with atomic_directory(folder, lambda path: str(path) in own) as partial:
        contents = write(partial)
        made = sorted(str(path.relative_to(partial)) for path in partial.rglob("*") if path.is_file())
        write_json(partial / "manifest.json", {**record, "contents": contents, "files": made})
        _tell_others(folder, own | {*made}, say)
    say(f"  made in {time.perf_counter() - start:.1f} s")


def _tell_others(folder: Path, own: set[str], say: Say) -> None:
    """Say what lies there that an earlier call did not make, and that stays."""
    there = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if others := [path for path in there if str(path.relative_to(folder)) not in own]:
        say(f"  what this tool did not make stays: {others[0]}{f' and {len(others) - 1} more' if others[1:] else ''}")


def _record(manifest: Path) -> dict[str, Any]:
    try:
        record = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _key_of(manifest: Path) -> str | None:
    record = _record(manifest)
    return record.get("key") if {"key", "settings", "contents"} <= record.keys() else None
