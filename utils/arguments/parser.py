"""argparse, with the rules that hold for every command line of the toolkit."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from utils.arguments.reading import Reading, is_looking, looking, problems_of
from utils.arguments.spellings import ALIASES, key, meant
from utils.arguments.values import bounded, is_switch_value, number, place, spaced, switch, text, whole_number
from utils.errors import UserError, run_as_script

#: What every `--help` says of the flags' spelling.
SAME = "Hyphens and underscores are the same in flags."
#: Help text of a flag that is not shown.
HIDDEN = argparse.SUPPRESS

_CONVERTERS: Mapping[Any, Callable[[str], Any]] = {int: whole_number, float: number, str: text, Path: place, None: text}
#: A percent sign that argparse would take for the beginning of a placeholder.
_PERCENT = re.compile(r"(?<!%)%(?![%(])")
_REQUIRED = "the following arguments are required: "


class Parser(argparse.ArgumentParser):
    """A parser whose flags are shown in one spelling and understood in all.

    Hyphens and underscores mean the same, names in use elsewhere are aliases (`spellings.ALIASES`), a switch is
    switched off by `--no_`, values are converted by `values`, and a mistake is a `UserError` of one sentence.
    """

    def __init__(self, **options: Any) -> None:
        self._flags: dict[str, str] = {}  # key of every own name -> the option as it is shown
        self._also: dict[str, str] = {}  # the same of aliases
        self._switches: set[str] = set()
        self._single: set[str] = set()  # options that take one value
        self._reads: dict[str, tuple[str, Reading]] = {}  # name of a value -> its flag, and what it may be
        self._has_positionals = False
        self._hands_over = False
        self.unproposed: set[str] = set()  # names that no mistake is meant to be
        described = f"{options.pop('description', None) or ''} {SAME}".strip()
        super().__init__(**{"allow_abbrev": False, "description": described, **options})

    def add_argument(
        self,
        *names: str,
        group: Any = None,
        aliases: Sequence[str] = (),
        opposite: str = HIDDEN,
        least: float | None = None,
        most: float | None = None,
        above: float | None = None,
        reads: Reading | None = None,
        **options: Any,
    ) -> argparse.Action:
        """As argparse's, with the flag shown as the first of `names`.

        Args:
            group: one of `add_argument_group`, where it is listed.
            aliases: further names, without dashes.
            opposite: help text of a switch's other form, `--no_`.
            least, most, above: what a number has to be.
            reads: the value is a path to read, which has to be there where `reading.looking` is around.
        """
        kind = options.get("action", "store")
        if options.get("help") is not None:
            options["help"] = _PERCENT.sub("%%", options["help"])
        if kind in ("store", "extend", "append"):
            wanted = options.get("type")
            convert = _CONVERTERS.get(wanted, wanted or text)
            if (least, most, above) != (None, None, None):
                convert = bounded(convert, least=least, most=most, above=above)
            if options.get("nargs") in ("+", "*"):
                convert = spaced(convert, options.get("choices") or ())
            options["type"] = _but(options.get("default"), convert)
            if "choices" in options and wanted is None and "nargs" not in options:
                del options["type"]
        add: Callable[..., argparse.Action] = super().add_argument if group is None else group.add_argument
        if not names[0].startswith("-"):
            self._has_positionals = True
            if reads is not None:
                self._reads[names[0]] = ("", reads)
            return add(*names, **options)
        if kind == "help":
            self._flags.update({"h": "-h", "help": "--help"})
            return add(*names, **options)
        shown = f"--{key(names[0])}"
        made = add(shown, **{"dest": key(shown), **options})
        if reads is not None:
            self._reads[made.dest] = (shown, reads)
        for name in (*names, *aliases):
            self._flags[key(name)] = shown
        for alias in ALIASES.get(key(shown), ()):
            self._also.setdefault(alias, shown)
        if kind == "store_true":
            self._switches.add(shown)
            self._flags[f"no_{key(shown)}"] = off = f"--no_{key(shown)}"
            add(off, dest=made.dest, action="store_const", const=False, default=argparse.SUPPRESS, help=opposite)
        elif kind == "store" and "nargs" not in options:
            self._single.add(shown)
        return made

    def add_subparsers(self, **options: Any) -> Any:
        """As argparse's; what stands behind the command is the command's."""
        self._hands_over = True
        return super().add_subparsers(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, except that nothing may be left.

        Raises:
            UserError: a word is not understood, or what is to be read is not there.
        """
        words = list(sys.argv[1:] if args is None else args)
        found, rest = super().parse_known_args(self.in_one_spelling(words), namespace)
        if rest:
            raise UserError(f"Not understood: {' '.join(rest)}; --help lists all flags.")
        if is_looking():
            self._look_at(found)
        return found, rest

    def _look_at(self, found: argparse.Namespace) -> None:
        """Refuse paths that are not there; defaults may be."""
        problems: list[str] = []
        for name, (shown, reads) in self._reads.items():
            value = getattr(found, name, None)
            if value != self.get_default(name):
                problems += problems_of(shown, value, reads)
        if problems:
            raise UserError(f"{'; '.join(problems)}.")

    def in_one_spelling(self, words: Sequence[str]) -> list[str]:
        """The command line with every flag spelt as it is shown, and switches without values.

        Raises:
            UserError: a flag is unknown.
        """
        done: list[str] = []
        unknown: list[str] = []
        left = list(words)
        while left:
            word = left.pop(0)
            if word == "--" or (self._hands_over and not word.startswith("-")):
                done += [word, *left]
                break
            if not word.startswith("-") or word == "-" or _is_number(word):
                done.append(word)
                continue
            name, has_value, value = word.partition("=")
            option = self.option_of(name)
            if option is None:
                unknown.append(word)
            elif option in self._switches:
                if not has_value and left and is_switch_value(left[0]) and not self._has_positionals:
                    has_value, value = "=", left.pop(0)
                done.append(self._switched(option, value) if has_value else option)
            elif has_value:
                done.append(f"{option}={value}")
            elif option in self._single and left and _is_number(left[0]):
                done.append(f"{option}={left.pop(0)}")  # argparse takes -1e-5 for a flag
            else:
                done.append(option)
        if unknown:
            hints = dict.fromkeys(meant(word, self.shown_flags()) for word in unknown)
            raise UserError(f"Not understood: {' '.join(unknown)}; {'; '.join(hints)}")
        return done

    def option_of(self, word: str) -> str | None:
        """The option that a word such as `--data-path` or `-use_swap` names, as it is shown; None if there is none."""
        name = key(word)
        if not word.startswith("--") and len(name) == 1 and f"-{name}" not in self._flags.values():
            return None
        return self._flags.get(name) or self._also.get(name)

    def shown_flags(self) -> list[str]:
        """The flags without their dashes, as they are shown, but those without effect."""
        return [name for name in dict.fromkeys(map(key, self._flags.values())) if name not in self.unproposed]

    def _switched(self, option: str, value: str) -> str:
        try:
            return option if switch(value) else f"--no_{key(option)}"
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{option}: {error}.") from None

    def error(self, message: str) -> NoReturn:
        """Raise a mistake as one sentence instead of printing the whole usage text.

        Raises:
            UserError: always.
        """
        if message.startswith(_REQUIRED):
            names = message.removeprefix(_REQUIRED).split(", ")
            message = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} required"
        told = message.removeprefix("argument ").replace(": must be", " must be", 1)
        raise UserError(f"{told} (--help lists all flags).")


def _but(default: Any, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """A conversion that leaves the default as it is: argparse converts defaults that are texts, too."""
    return lambda word: default if word is default else convert(word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class ToolParser(Parser):
    """The parser of a tool that does not run in `run_as_script` yet: a mistake ends the process with exit code 2."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; of this process's own command line, what is to be read has to be there."""
        with looking() if args is None else nullcontext():
            return run_as_script(lambda: super(ToolParser, self).parse_args(args, namespace), debug=False)
