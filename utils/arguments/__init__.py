"""Command lines: a dataclass per group of flags, a sentence per field, which is its line in `--help`.

A flag is shown in one spelling and understood in all that are usual; hyphens and underscores are the same. Nothing here
needs torch or Transformers, so that `--help` and a mistake are answered at once; `utils.arguments.settings` does.
"""

from utils.arguments.fields import as_json, flag, out_of_range, parse, spelled
from utils.arguments.parser import HIDDEN, Parser, ToolParser
from utils.arguments.reading import MODEL, PLACE, Reading
from utils.arguments.shared import EvaluationArguments, OptimisationArguments, RunArguments, for_training_only

__all__ = [
    "HIDDEN",
    "MODEL",
    "PLACE",
    "EvaluationArguments",
    "OptimisationArguments",
    "Parser",
    "Reading",
    "RunArguments",
    "ToolParser",
    "as_json",
    "flag",
    "for_training_only",
    "out_of_range",
    "parse",
    "spelled",
]
