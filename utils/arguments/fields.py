"""Flags as dataclasses: a field is a flag, its text the line in `--help`, its bounds what is checked."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, field
from pathlib import Path
from typing import Any, Literal

from utils.arguments.parser import HIDDEN, Parser
from utils.arguments.reading import Reading
from utils.arguments.spellings import key
from utils.arguments.values import number, one_of, outside, place, text, whole_number
from utils.errors import UserError


def flag(
    default: Any,
    text: str,
    *,
    name: str | None = None,
    aliases: Sequence[str] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    convert: Callable[[str], Any] | None = None,
    hint: str = "",
    reads: Reading | None = None,
    **options: Any,
) -> Any:
    """A dataclass field that is a flag.

    Args:
        default: its value where it is not given; `MISSING` makes it required.
        text: its line in `--help`, one or two sentences; the default is added to one that does not speak of it.
        name: what it is called, where that is not the field's name, which run directories record.
        aliases: further names, beside those of `spellings.ALIASES`.
        least, most, above, below: what its number, or each of them, has to be.
        convert: from a word to a value, where the field's type does not say how.
        hint: of a whole number, what else would do for one with a fraction.
        reads: the value is a path to read, see `utils.arguments.reading`.
        options: further ones of `add_argument`.
    """
    metadata = {
        "help": text,
        "name": name,
        "aliases": tuple(aliases),
        "bounds": {"least": least, "most": most, "above": above, "below": below},
        "convert": convert,
        "hint": hint,
        "reads": reads,
        "options": options,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def spelled(one: dataclasses.Field[Any]) -> str:
    """A field's flag as it is shown: `--output_dir`."""
    return f"--{one.metadata.get('name') or one.name}"


def out_of_range(groups: Iterable[Any], least: Mapping[str, float] | None = None) -> list[str]:
    """One sentence, without its full stop, for every number of parsed dataclasses that is outside its bounds.

    Args:
        least: field name -> another least value than the field's own.
    """
    problems = []
    for group in groups:
        for one in dataclasses.fields(group):
            bounds = {**one.metadata.get("bounds", {})}
            if least is not None and one.name in least:
                bounds["least"] = least[one.name]
            found = getattr(group, one.name)
            for value in found if isinstance(found, list) else [found]:
                if isinstance(value, int | float) and not isinstance(value, bool):
                    problem = outside(value, **bounds)
                    problems += [f"{spelled(one)} must be {problem}, found {value}"] if problem else []
    return problems


def parse(
    types: Sequence[type],
    description: str,
    arguments: Sequence[str] | None = None,
    ignored: Sequence[str] | Mapping[str, str] = (),
    warn: bool = True,
    aliases: Mapping[str, Sequence[str]] | None = None,
    defaults: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    epilog: str | None = None,
    texts: Mapping[str, str] | None = None,
    prog: str | None = None,
) -> tuple[Any, ...]:
    """Parse the command line into one dataclass per type.

    Args:
        ignored: flags of the original that are accepted with a warning; a mapping says for each why it has no effect,
            of the others it is said that they never had one.
        warn: whether to tell so.
        aliases: field name -> further names of its flag, in this script alone.
        defaults: field name -> another default than the dataclass has, or a function that gives this mapping for the
            values that are given.
        epilog: printed below the flags by `--help`.
        texts: field name -> another help text than the dataclass has; `HIDDEN` leaves the flag out of the help.
        prog: how the program is called, where that is not the name of its file.

    Raises:
        UserError: a flag is unknown, or a value is not what the flag takes.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    reasons = {key(name): reason for name, reason in _reasons(ignored).items()}

    def parser_with(own: Mapping[str, Any]) -> Parser:
        parser = Parser(prog=prog, description=description, epilog=epilog)
        for cls in types:
            add_fields(parser, cls, aliases or {}, own, texts or {})
        _add_ignored(parser, reasons)
        return parser

    asks_for_help = any(word in ("-h", "--help") for word in words)
    own = defaults if isinstance(defaults, Mapping) else {}
    if callable(defaults):
        bare = [word for word in words if word not in ("-h", "--help")]
        own = defaults(_given(parser_with({}), types, bare, lenient=asks_for_help))
    given = vars(parser_with(own).parse_args(words))
    for name, reason in reasons.items():
        if warn and given[f"ignored_{name}"] is not None:
            why = f"has no effect: {reason}" if reason else "has no effect here, nor had it in the original"
            print(f"warning: --{name} {why}.", file=sys.stderr)
    return tuple(cls(**{one.name: given[one.name] for one in dataclasses.fields(cls)}) for cls in types)


def _given(parser: Parser, types: Sequence[type], words: Sequence[str], lenient: bool) -> dict[str, Any]:
    """The values of the flags that are given, by field name; with `lenient`, none where one is wrong."""
    nothing = {one.name: None for cls in types for one in dataclasses.fields(cls)}
    parser.set_defaults(**dict.fromkeys(nothing, MISSING))
    try:
        found = vars(parser.parse_args(words))
    except UserError:
        if lenient:
            return {}
        raise
    return {name: value for name, value in found.items() if name in nothing and value is not MISSING}


def _add_ignored(parser: Parser, reasons: Mapping[str, str]) -> None:
    if not reasons:
        return
    group = parser.add_argument_group("accepted without effect (as in the original)")
    parser.unproposed.update(reasons)
    for name, reason in reasons.items():
        told = _escaped(f"Has no effect{': ' if reason else ''}{reason}.")
        parser.add_argument(
            f"--{name}",
            group=group,
            dest=f"ignored_{name}",
            nargs="?",
            const="",
            type=_as_it_is,
            metavar="VALUE",
            help=told,
        )


def _reasons(ignored: Sequence[str] | Mapping[str, str]) -> Mapping[str, str]:
    return ignored if isinstance(ignored, Mapping) else dict.fromkeys(ignored, "")


def add_fields(
    parser: Parser,
    cls: Any,
    aliases: Mapping[str, Sequence[str]],
    defaults: Mapping[str, Any],
    texts: Mapping[str, str],
) -> None:
    """Add a group with the flags of a dataclass; see `parse`."""
    group = parser.add_argument_group(getattr(cls, "_argument_group_name", None))
    hints = typing.get_type_hints(cls)
    for one in dataclasses.fields(cls):
        default = defaults.get(one.name, one.default)
        if one.default_factory is not MISSING and one.name not in defaults:
            default = one.default_factory()
        names = (*one.metadata["aliases"], *aliases.get(one.name, ()), one.name)
        told = texts.get(one.name, one.metadata["help"])
        options = {**_options(one, hints[one.name]), **one.metadata["options"]}
        options |= {"required": True} if default is MISSING else {"default": default}
        options |= {"help": _with_default(told, default), "reads": one.metadata["reads"]}
        opposite = f"The opposite of {spelled(one)}." if default is True and told != HIDDEN else HIDDEN
        parser.add_argument(spelled(one), group=group, aliases=names, opposite=opposite, dest=one.name, **options)


def _options(one: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    """What the type of a field says of its flag."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
    metavar = key(spelled(one)).upper()
    if hint is bool:
        return {"action": "store_true"}
    several: dict[str, Any] = {}
    if typing.get_origin(hint) is list:
        (hint,) = typing.get_args(hint)
        several = {"nargs": "+"}
    convert = one.metadata["convert"]
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        metavar = "{" + ",".join(map(str, choices)) + "}"
        convert = convert or one_of(choices)
    elif convert is None:
        convert = {int: _whole(one.metadata["hint"]), float: number, str: text, Path: place}[hint]
    return {"type": convert, "metavar": metavar, **several}


def _whole(hint: str) -> Callable[[str], int]:
    return lambda word: whole_number(word, hint)


def _with_default(told: str, default: Any) -> str:
    """A help text that says what holds where the flag is not given, unless that is nothing."""
    if told == HIDDEN:
        return told
    is_known = default in (None, MISSING, "", []) or isinstance(default, bool) or "default" in told.lower()
    words = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
    return str(_escaped(told if is_known else f"{told} (default: {words})"))


def _as_it_is(word: str) -> str:
    return word


def _escaped(text: str | None) -> str | None:
    """Text with signs that argparse would fill in."""
    return text and text.replace("%", "%%")


def as_json(*groups: Any) -> dict[str, Any]:
    """All arguments as JSON values."""
    merged = {k: v for group in groups for k, v in dataclasses.asdict(group).items()}
    return {k: str(v) if isinstance(v, Path) else v for k, v in merged.items()}
