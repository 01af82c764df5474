"""Opening a tokenizer: that of the model and no invented one, with all that rows need, and one rule for lower case."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BertTokenizerFast, T5TokenizerFast

from model.folders import check_folder
from model.pretrained import open_pretrained
from model.weights import check_content, check_length, read_json
from utils.errors import UserError
from utils.opening.errors import loading_errors, silent_panics
from utils.opening.files import is_t5
from utils.opening.places import model_directory
from utils.telling import warn

#: Files of which a tokenizer needs one; without any, Transformers makes up one that knows no words.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "spiece.model")
_OTHERS = ("vocab.json", "merges.txt", "tokenizer.model", "sentencepiece.bpe.model")
_SETTINGS = "tokenizer_config.json"
_BESIDE = (_SETTINGS, "special_tokens_map.json", "added_tokens.json")
#: A tokenizer's own settings may pad and cut rows, of any length.
_LONGEST_ROW = 1_000_000
_BOM = b"\xef\xbb\xbf"
#: Special tokens that rows are made with.
BERT_TOKENS = ("pad", "unk", "cls", "sep")
MASKED_TOKENS = (*BERT_TOKENS, "mask")
T5_TOKENS = ("pad", "unk", "eos")


def has_tokenizer(source: str | Path) -> bool:
    """Whether a model's folder holds a tokenizer of its own."""
    root = Path(model_directory(source))
    return any((root / name).is_file() or (root / name).is_symlink() for name in (*_VOCABULARIES, *_OTHERS))


def open_tokenizer(
    source: str | Path, lower_case: bool = False, needs: Sequence[str] | None = None, models: Sequence[Any] = ()
) -> Any:
    """The tokenizer of a hub id, folder or run's folder; also of a lone vocab.txt or spiece.model.

    Args:
        lower_case: lower the case whatever its settings say. Without it they decide, and where only a vocab.txt is
            there, its words do: the case is lowered if none has a capital letter.
        needs: special tokens it must have, by default those that rows for a model of its family are made with.
        models: what it is to be used with; each must have an embedding for every id.

    Raises:
        UserError, ModelError: there is none, or it lacks a token, or has more than a model.
    """
    directory = model_directory(source)
    root = Path(directory)
    check_folder(root)
    _check_files(root)
    options: dict[str, Any] = {}
    if lower_case:
        options["do_lower_case"] = True
    elif (saved := lowers_case(root)) is not None:
        options["do_lower_case"] = saved
    with loading_errors(directory, "tokenizer"):
        tokenizer = open_pretrained(_class_of(root), directory, **options)
        vocabulary = tokenizer.get_vocab()
        special = set(tokenizer.all_special_ids)
    if len(vocabulary) <= len(special):
        raise UserError(f"The tokenizer of {directory} has {len(vocabulary)} tokens, and no words among them.")
    check_special(tokenizer, root, _needed(root) if needs is None else needs)
    _check_use(tokenizer, directory)
    if lower_case:
        _check_lowered(tokenizer, vocabulary, directory)
    for model in models:
        check_fits(tokenizer, model, directory)
    return tokenizer


def _check_use(tokenizer: Any, directory: str) -> None:
    """Refuse a tokenizer that was opened and cannot be used: lengths that are none, a template without its tokens.

    Raises:
        UserError: saying what.
    """
    most = tokenizer.model_max_length
    if isinstance(most, bool) or not isinstance(most, int | float) or most < 1:
        raise UserError(
            f"{Path(directory) / _SETTINGS}: model_max_length is {most!r}, expected a number of at least 1."
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for setting in (getattr(backend, name, None) or {} for name in ("padding", "truncation")):
        if any(isinstance(size, int) and size > _LONGEST_ROW for size in setting.values()):
            raise UserError(
                f"{Path(directory) / 'tokenizer.json'}: rows of more than {_LONGEST_ROW:,} tokens are none."
            )
    with loading_errors(directory, "tokenizer"), silent_panics():
        encode = tokenizer.encode if backend is None else backend.encode
        encode("a b", "b")


def lowers_case(directory: Path) -> bool | None:
    """Whether a lone vocab.txt is one of lower-case words; None where a tokenizer's settings say what it does."""
    if (directory / "tokenizer.json").is_file() or not (directory / "vocab.txt").is_file():
        return None
    if (directory / _SETTINGS).is_file() and "do_lower_case" in read_json(directory / _SETTINGS):
        return None
    return not any(has_capital(token) for token in _lines(directory / "vocab.txt"))


def has_capital(token: str) -> bool:
    """Whether an ordinary token has a capital letter; special ones in brackets always have."""
    is_special = token.startswith(("[", "<")) and token.endswith(("]", ">")) and len(token) > 2
    return not is_special and token != token.lower()


def check_fits(tokenizer: Any, model: Any, source: str) -> None:
    """Refuse a tokenizer that has ids beyond a model's embedding; an embedding with more rows is fine.

    Raises:
        UserError: with both numbers, and the first token beyond.
    """
    rows = getattr(model.config, "vocab_size", None)
    vocabulary = tokenizer.get_vocab()
    if rows is None or (highest := max(vocabulary.values())) < rows:
        return
    token = next(token for token, number in sorted(vocabulary.items(), key=lambda item: item[1]) if number >= rows)
    raise UserError(
        f"The tokenizer of {source} has ids up to {highest} ({token!r} is the first beyond), but the model's embedding "
        f"has {rows} rows: take the tokenizer that the model was trained with, or resize the embedding and train it."
    )


def check_one_vocabulary(teacher: str, student: str) -> None:
    """Refuse a student whose tokenizer gives other ids than its teacher's: both read the same rows.

    Where one of them has no tokenizer of its own, the other's is used for both.

    Raises:
        UserError: with both sizes, and a token that differs.
    """
    places = [Path(model_directory(source)) for source in (teacher, student)]
    if places[0].resolve() == places[1].resolve() or not all(has_tokenizer(place) for place in places):
        return
    taught, learning = (open_tokenizer(place).get_vocab() for place in places)
    if taught == learning:
        return
    differs = min(
        (token for token in {*taught, *learning} if taught.get(token) != learning.get(token)),
        key=lambda token: (taught.get(token, learning.get(token)), token),
    )
    ids = " and ".join(str(ids.get(differs, "not there")) for ids in (learning, taught))
    raise UserError(
        f"The student's vocabulary ({student}, {len(learning)} tokens) is not the teacher's ({teacher}, {len(taught)} "
        f"tokens): {differs!r} is {ids}; distillation needs one tokenizer for both."
    )


def carry_tokenizer(source: Path, target: Path, model: Any = None) -> None:
    """Save the tokenizer of the folder `source`, if it has one, beside another form of its model in `target`.

    Args:
        model: warn where it has no embedding for an id; nothing is encoded here, so that it is no error yet.

    Raises:
        UserError, ModelError: its files cannot be read.
    """
    if not has_tokenizer(source):
        warn(f"{source} has no tokenizer files, so that the model saved from it has none.")
        return
    tokenizer = open_tokenizer(source, needs=())
    if model is not None:
        try:
            check_fits(tokenizer, model, str(source))
        except UserError as error:
            warn(str(error))
    tokenizer.save_pretrained(target)
    # Other libraries read the sentence-piece model itself.
    if (source / "spiece.model").is_file() and not (target / "spiece.model").exists():
        shutil.copyfile(source / "spiece.model", target / "spiece.model")


def _check_files(root: Path) -> None:
    found = [name for name in (*_VOCABULARIES, *_OTHERS) if (root / name).is_file() or (root / name).is_symlink()]
    if not found:
        raise UserError(
            f"{root} has no tokenizer files (tokenizer.json, vocab.txt or spiece.model): copy those of the model that "
            "it was made from into it."
        )
    for name in (*found, *(name for name in _BESIDE if (root / name).exists())):
        if not (root / name).exists():
            raise UserError(f"{root / name} is a link to {os.readlink(root / name)}, which does not exist.")
        check_content(root / name)
        if not (root / name).stat().st_size:
            raise UserError(f"{root / name} is empty (0 bytes).")
        if name in _BESIDE:
            read_json(root / name)
        elif name.endswith((".json", ".txt")):
            check_length(root / name)
    if "vocab.txt" in found and "tokenizer.json" not in found:
        _lines(root / "vocab.txt")


def _lines(path: Path) -> list[str]:
    """The tokens of a vocab.txt."""
    content = path.read_bytes()
    if content.startswith(_BOM):
        raise UserError(
            f"{path} begins with a byte order mark, which would become a part of its first token: save it as UTF-8 "
            "without one."
        )
    try:
        return re.split(r"\r\n|\r|\n", content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 ({error.reason}).") from None


def _class_of(root: Path) -> Any:
    """Where no settings name it, the class goes by the files; by the name of a T5 or BERT everything else is known."""
    if (root / "tokenizer.json").is_file() or (root / _SETTINGS).is_file():
        return AutoTokenizer
    if (root / "vocab.txt").is_file():
        return BertTokenizerFast
    return T5TokenizerFast if (root / "spiece.model").is_file() else AutoTokenizer


def _needed(root: Path) -> tuple[str, ...]:
    return T5_TOKENS if is_t5(root) else BERT_TOKENS


def check_special(tokenizer: Any, root: Path, needs: Sequence[str]) -> None:
    """Refuse a tokenizer without one of the special tokens `needs`, or with one that its vocabulary does not have.

    Raises:
        UserError: with the token.
    """
    lone = (root / "vocab.txt").is_file() and not (root / "tokenizer.json").is_file()
    known = set(_lines(root / "vocab.txt")) if lone else set(tokenizer.get_vocab())
    if (root / "added_tokens.json").is_file():
        known |= set(read_json(root / "added_tokens.json"))
    for name in needs:
        token = getattr(tokenizer, f"{name}_token", None)
        if token is None:
            raise UserError(
                f"The tokenizer of {root} has no {_WORDS[name]} ({name}_token): name it in {root / _SETTINGS}."
            )
        if str(token) not in known:  # Transformers would add it, with an id that the model has never seen
            where = "vocab.txt" if lone else "the vocabulary"
            raise UserError(f"The tokenizer of {root} has {token} as its {_WORDS[name]}, and {where} has no {token}.")


def _check_lowered(tokenizer: Any, vocabulary: dict[str, int], directory: str) -> None:
    """Warn where a flag for lower case does nothing, or harm."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    if (definition.get("normalizer") or {}).get("type") != "BertNormalizer":
        warn(f"--do_lower_case has no effect: the tokenizer of {directory} has no such setting.")
    elif any(map(has_capital, vocabulary)):
        warn(f"--do_lower_case: the vocabulary of {directory} has words with capital letters, which are not met now.")


_WORDS = {
    "pad": "padding token",
    "unk": "token for unknown words",
    "cls": "token for the beginning of a row",
    "sep": "token between sentences",
    "mask": "mask token",
    "eos": "token for the end of a row",
}
