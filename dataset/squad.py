"""Reads SQuAD v1.1 from its JSON files, from saved ``datasets`` folders, or from the hub."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.errors import DataError, counted, shown
from dataset.sources import candidate_folders, is_hub, is_saved_dataset, load_hub, load_saved, not_found, read_json
from dataset.tasks import TASKS, Split, known_split

_HUB_REPOSITORY = "rajpurkar/squad"
_FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train-v1.1.json", "train.json"),
    "valid": ("dev-v1.1.json", "dev.json", "valid.json"),
}


@dataclass(frozen=True, slots=True)
class SquadExample:
    """One question; ``answers`` are its gold answers (one in training, up to five in validation)."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The text fields, in the order of the task's columns."""
        return (self.question, self.context)


def read_squad(data_path: str | Path, split: str) -> list[SquadExample]:
    """Every question of one split, in file order.

    Args:
        data_path: a SQuAD JSON file, a folder with ``train-v1.1.json`` and ``dev-v1.1.json``, a folder
            written by ``save_to_disk``, a parent of either (``data_path/squad``, ``data_path/SQuAD``), or
            the word ``hub``.
        split: train or valid; the test set is not public.

    Raises:
        DataError: nothing to read there, or the file is not SQuAD v1.1.
    """
    which = known_split(split)
    if which == "test":
        raise DataError("SQuAD has no public test set: use the split train or valid")
    hub_split = TASKS["squad"].hub_split(which)
    if is_hub(data_path):
        return _from_saved(load_hub(_HUB_REPOSITORY, None, hub_split, data_path), f"hub:{_HUB_REPOSITORY}")
    root = Path(data_path)
    if root.is_file():
        return _from_json(root)
    folders = candidate_folders(root, ("squad", "SQuAD"))
    for folder in folders:
        if is_saved_dataset(folder):
            return _from_saved(load_saved(folder, hub_split), str(folder))
        for name in _FILES[which]:
            if (folder / name).is_file():
                return _from_json(folder / name)
    raise DataError(not_found(root, folders, f"neither {' or '.join(_FILES[which])} nor a saved dataset"))


def _from_json(path: Path) -> list[SquadExample]:
    examples = list(_questions(read_json(path), path))
    if not examples:
        raise DataError(f"{path}: this file holds no questions")
    _check_ids(examples, str(path))
    return examples


def _check_ids(examples: Sequence[SquadExample], where: str) -> None:
    """Answers are scored by the id of their question, so that two questions with one id would count as one."""
    counts = Counter(example.id for example in examples)
    if twice := [name for name, count in counts.items() if count > 1]:
        more = f", and {counted(len(twice) - 1, 'further id')} several times" if len(twice) > 1 else ""
        raise DataError(
            f"{where}: the question id {shown(twice[0])} occurs {counts[twice[0]]:,} times{more}, and each question "
            "needs an id of its own"
        )


def _questions(content: Any, path: Path) -> Iterator[SquadExample]:
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a SQuAD file, expected a JSON object with the key 'data'")
    for a, article in enumerate(_value(content, "data", list, f"{path}")):
        place = f"{path}: data[{a}]"
        for p, paragraph in enumerate(_value(article, "paragraphs", list, place)):
            context = _value(paragraph, "context", str, f"{place}.paragraphs[{p}]")
            for q, question in enumerate(_value(paragraph, "qas", list, f"{place}.paragraphs[{p}]")):
                yield _question(question, context, f"{place}.paragraphs[{p}].qas[{q}]")


def _question(question: Any, context: str, place: str) -> SquadExample:
    name = _value(question, "id", str, place)
    answers = [_value(answer, "text", str, place) for answer in _value(question, "answers", list, place)]
    if not answers:
        raise DataError(f"{place}: question {name} has no answer; SQuAD v1.1 is expected, v2.0 is not supported")
    return SquadExample(name, _value(question, "question", str, place), context, tuple(answers))


def _value(parent: Any, key: str, kind: type, place: str) -> Any:
    value = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(value, kind):
        raise DataError(f"{place}: no {key!r} of type {kind.__name__}, which SQuAD v1.1 has here")
    if isinstance(value, str) and not _is_unicode(value):
        raise DataError(f"{place}: {key!r} holds half a character (a lone surrogate), expected Unicode text")
    return value


def _is_unicode(text: str) -> bool:
    """Whether no tokenizer stumbles over it: JSON can spell half a character, and nothing else can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_saved(rows: Any, where: str) -> list[SquadExample]:
    missing = [name for name in ("id", "question", "context", "answers") if name not in rows.column_names]
    if missing:
        raise DataError(f"{where}: no column {', '.join(missing)}, the columns are {', '.join(rows.column_names)}")
    if not len(rows):
        raise DataError(f"{where}: this split is empty")
    examples = []
    for number, row in enumerate(rows):
        place = f"{where}: row {number}"
        answers = _saved_answers(row["answers"], place)
        if not answers:
            raise DataError(f"{where}: question {row['id']} has no answer; SQuAD v1.1 is expected")
        question, context = (_value(row, name, str, place) for name in ("question", "context"))
        examples.append(SquadExample(str(row["id"]), question, context, answers))
    _check_ids(examples, where)
    return examples


def _saved_answers(found: Any, place: str) -> tuple[str, ...]:
    """The texts of {"text": [...], ...}, as the hub has them, or of [{"text": ...}, ...], as SQuAD's own files do."""
    texts = found.get("text") if isinstance(found, dict) else found
    if isinstance(texts, list):
        return tuple(_value(one if isinstance(one, dict) else {"text": one}, "text", str, place) for one in texts)
    raise DataError(f"{place}: the answers are {shown(found)}, expected {{'text': [...]}} or [{{'text': ...}}, ...]")
