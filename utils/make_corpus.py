"""Cut plain text into the corpus that `--task_name wiki` reads: one span of about 128 words per line.

python -m utils.make_corpus wiki.txt more.txt --output data/wikicorpus_128/train.txt
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.arguments import PLACE, ToolParser
from utils.embedded.corpus import SPAN_WORDS, cut
from utils.errors import UserError, run_as_script
from utils.hints import next_lines
from utils.outputs import guard
from utils.tool_steps import after_own_corpus
from utils.writing import atomic_file

#: WikiText joins hyphens and separators with @; plain text does not.
_WIKITEXT_MARKS = {" @-@ ": "-", " @,@ ": ",", " @.@ ": "."}


def clean_lines(files: Iterable[Path]) -> Iterator[str]:
    """Non-empty lines without WikiText's headings (`= Title =`) and marks, in constant memory.

    Raises:
        UserError: a file is not there or cannot be read.
    """
    for path in files:
        if not path.is_file():
            raise UserError(f"There is no text file {path}.")
        try:
            with open(path, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    text = line.strip()
                    if not text or (text.startswith("= ") and text.endswith(" =")):
                        continue
                    for mark, plain in _WIKITEXT_MARKS.items():
                        text = text.replace(mark, plain)
                    yield text
        except OSError as error:
            raise UserError(f"Could not read {path}: {error.strerror or error}.") from error


def make_corpus(files: list[Path], output: Path, span_words: int = SPAN_WORDS) -> int:
    """Write the spans of `files` to `output` and return their number.

    Raises:
        UserError: a file cannot be read, none holds any text, or the disk is full.
    """
    count = 0
    with atomic_file(output) as file, file.open("w", encoding="utf-8") as target:
        for span in cut(clean_lines(files), span_words):
            target.write(span + "\n")
            count += 1
        if not count:
            raise UserError(f"No text was found in {', '.join(map(str, files))}.")
    return count


def main() -> None:
    """Command line."""
    parser = ToolParser(prog="python -m utils.make_corpus", description=str(__doc__).split("\n")[0])
    parser.add_argument(
        "files", nargs="+", type=Path, reads=PLACE, metavar="FILE", help="plain text, one paragraph per line"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="the corpus file; its name must hold the word train or valid",
    )
    parser.add_argument("--span_words", type=int, default=SPAN_WORDS, help="words per span (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    arguments = parser.parse_args()
    guard("utils.make_corpus", arguments)
    count = make_corpus(arguments.files, arguments.output, arguments.span_words)
    print(f"made: {arguments.output} ({count} spans)")
    lacking = "to be trained on, its folder needs a text file with train in its name and one with valid"
    print(next_lines(after_own_corpus(arguments.output)) or lacking)


if __name__ == "__main__":
    run_as_script(main, debug="--debug" in sys.argv)
