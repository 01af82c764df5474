"""The data and checkpoints that the launchers of the larger sizes look for. The quickstart makes its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.doctor.findings import Finding

#: Names of GLUE's tasks as the launchers use them -> the folders of GLUE's own archives.
_GLUE = {
    **{"mnli": "MNLI", "qqp": "QQP", "qnli": "QNLI", "sst2": "SST-2", "rte": "RTE", "mrpc": "MRPC"},
    **{"cola": "CoLA", "stsb": "STS-B", "wnli": "WNLI"},
}
_PLUGIN = "checkpoints/plugins/plugin-t5_{}-mux_4.pkl"


@dataclass(frozen=True)
class Place:
    """Something that one of `paths` is to be, and how it is got."""

    name: str
    paths: tuple[str, ...]
    remedy: str
    use: str


_PLACES = (
    Place("SQuAD", ("data/SQuAD",), "python utils/save_data.py --only squad", "glue.sh base squad"),
    Place("CoNLL-2003", ("data/glue/conll",), "put train.txt, dev.txt and test.txt there", "minidisc/…sh MODEL conll"),
    Place(
        "WNUT-17", ("data/glue/wnut17",), "put its three files there, or --data_dir hub", "minidisc/…sh MODEL wnut17"
    ),
    Place("Wikipedia corpus", ("data/wikicorpus_128",), "python -m utils.download corpus", "wiki.sh base"),
    Place(
        "pre-generated text",
        ("data/pregenerated",),
        "python -m utils.pregenerate_training_data --train_corpus data/wikicorpus_128 --line_filter off "
        "--split_sentences --bert_model models/bert-base-uncased --output_dir data/pregenerated",
        "bert/general_distill.sh MODEL",
    ),
    Place("BERT", ("models/bert-base-uncased",), "python -m utils.download bert", "bert/*.sh, minidisc/*.sh"),
    *(
        Place(
            f"published plugins, {size}",
            (_PLUGIN.format(size),),
            f"python -m utils.download plugin --size {size}",
            f"glue-mux.sh {size}",
        )
        for size in ("base", "large")
    ),
)


def check_glue(root: Path) -> Finding:
    """The nine tasks, as saved by utils/save_data.py or unpacked from GLUE's archives."""
    glue = root / "data" / "glue"
    there = [name for name, folder in _GLUE.items() if _is_filled(glue / name) or _is_filled(glue / folder)]
    lacking = [name for name in _GLUE if name not in there]
    if not lacking:
        return Finding("GLUE", "ok", f"all nine tasks in {glue}")
    found = f"{', '.join(there)} in {glue}; not: {', '.join(lacking)}" if there else f"nothing in {glue}"
    return Finding(
        "GLUE", "warning" if there else "missing", found, f"python utils/save_data.py --only {' '.join(lacking)}"
    )


def check_places(root: Path, places: Sequence[Place] = _PLACES) -> list[Finding]:
    """Everything else."""
    findings = []
    for place in places:
        there = [path for path in place.paths if _is_filled(root / path)]
        if there:
            findings.append(Finding(place.name, "ok", there[0]))
        else:
            found = f"no {place.paths[0]} (for {place.use})"
            findings.append(Finding(place.name, "missing", found, place.remedy))
    return findings


def _is_filled(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))
