"""Fetches what the original releases start from: pre-trained plugins, the pre-training corpus, BERT.

    python -m utils.download plugin --size base     -> checkpoints/plugins/plugin-t5_base-mux_4.pkl
    python -m utils.download corpus                 -> data/wikicorpus_128/
    python -m utils.download bert                   -> models/bert-base-uncased/

A download that breaks off is taken up where it stopped. A file appears under its name only when it is
complete; beside it lies NAME.json with its address, size and SHA-256, and a file that is not the recorded one any more
is fetched again. Addresses begin with https; http is good for this machine itself only. A file of the hub is one of a
commit, which the record has too: what is fetched later is of the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from utils.archives import unpack
from utils.arguments import ToolParser
from utils.errors import UserError, run_as_script
from utils.fetching import COMMIT, add_limits, fetch, limits_of, recorded_address, recorded_revision
from utils.hints import next_lines
from utils.lock import locked
from utils.tool_steps import after_bert, after_corpus, after_plugins

PUBLISHED = "https://thunlp.oss-cn-qingdao.aliyuncs.com/Variator-Compression-Plugin"
PLUGIN_FILE = "plugin-t5_{size}-mux_4.pkl"
CORPUS_NAME = "wikicorpus_128"
CORPUS_FILE = f"{CORPUS_NAME}.tar.gz"
BERT = "google-bert/bert-base-uncased"
#: What of a BERT's repository on the hub is needed; the weights last, so that a wrong name is told at once.
BERT_FILES = ("config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors")


def _address(args: argparse.Namespace, path: str) -> str:
    """--url as it is, or the published path under --mirror."""
    return args.url or _below(args.mirror, path)


def _below(base: str, path: str) -> str:
    """An address with a path added; what stands behind `?`, such as a signature, stays there."""
    address, mark, query = base.partition("?")
    return f"{address.rstrip('/')}/{path}{mark}{query}"


def fetch_plugin(args: argparse.Namespace) -> None:
    """The published plugins of one size."""
    name = PLUGIN_FILE.format(size=args.size)
    target = (args.output or Path("checkpoints/plugins")) / name
    fetch(_address(args, f"plugins/{name}"), target, sha256=args.sha256, limits=limits_of(args))
    print(next_lines(after_plugins(args.size, target), "then"))


def fetch_corpus(args: argparse.Namespace) -> None:
    """The published corpus, unpacked."""
    output = args.output or Path("data")
    folder = output / CORPUS_NAME
    if not folder.is_dir():
        with locked(folder, waiting=print):
            if not folder.is_dir():
                address, target = _address(args, CORPUS_FILE), output / CORPUS_FILE
                archive = fetch(address, target, sha256=args.sha256, limits=limits_of(args))
                unpack(archive.path, folder)
                print(f"{archive.path} may be deleted\n{next_lines(after_corpus(folder))}")
                return
    print(f"reused {folder}")


def fetch_bert(args: argparse.Namespace) -> None:
    """A BERT of the hub as a plain directory, whose copies can be edited into students; all files of one commit.

    Raises:
        UserError: the folder holds another commit, the hub gives one, or a file cannot be fetched.
    """
    from huggingface_hub.constants import ENDPOINT  # the hub's address, or HF_ENDPOINT

    model, _, given = args.model.partition("@")
    if given and args.revision not in (None, given):
        raise UserError(f"--model {args.model} and --revision {args.revision} name two revisions: leave one out")
    given = args.revision or given
    folder = args.output or Path("models") / model.rsplit("/", 1)[-1]
    known = next((found for name in BERT_FILES if (found := recorded_revision(folder / name))), None)
    asked = recorded_address(folder / BERT_FILES[0])
    if known and given and given != known and f"/resolve/{quote(given, safe='')}/" not in asked:
        raise UserError(f"{folder} holds the commit {known}, not {given}: name another folder (--output_dir)")
    revision = known or given or "main"
    for name in BERT_FILES:
        address = _below(args.mirror or ENDPOINT, f"{model}/resolve/{quote(revision, safe='')}/{name}")
        found = fetch(address, folder / name, limits=limits_of(args)).revision
        if found and COMMIT.fullmatch(revision) and found != revision:
            raise UserError(f"{folder / name} is of the commit {found}, expected {revision}: delete it and fetch again")
        revision = found or revision
    if COMMIT.fullmatch(revision):
        print(f"{folder} is {model} at the commit {revision}")
    print(next_lines(after_bert(folder), "then"))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = ToolParser(
        prog="python -m utils.download",
        description="Fetches the plugins or the corpus of the original release, or a BERT.",
    )
    commands = parser.add_subparsers(dest="what", metavar="plugin|corpus|bert", required=True)
    plugin = commands.add_parser("plugin", aliases=["plugins"], help="the pre-trained plugins (ratio 4)")
    plugin.add_argument("--size", choices=("base", "large"), default="base", help="of the T5 (default: base)")
    plugin.set_defaults(run=fetch_plugin)
    corpus = commands.add_parser("corpus", help="the pre-training corpus, one span of about 128 words per line")
    corpus.set_defaults(run=fetch_corpus)
    for command in (plugin, corpus):
        where = command.add_mutually_exclusive_group()
        command.add_argument("--url", group=where, help="the file's address, if it has moved")
        command.add_argument(
            "--mirror", group=where, default=PUBLISHED, help=f"the release's address (default: {PUBLISHED})"
        )
        command.add_argument("--sha256", metavar="HEX", help="refuse a file with another checksum")
    bert = commands.add_parser("bert", help="a pre-trained BERT of the Hugging Face hub, as a directory")
    bert.add_argument("--model", default=BERT, metavar="ID", help=f"its name on the hub (default: {BERT})")
    bert.add_argument("--revision", help="branch, tag or commit; also ID@REVISION (default: the recorded one, or main)")
    bert.add_argument("--mirror", help="the hub's address (default: HF_ENDPOINT, or the hub's own)")
    bert.set_defaults(run=fetch_bert)
    for command, most_gb in ((plugin, 1), (corpus, 64), (bert, 16)):
        add_limits(command, most_gb)
        command.add_argument(
            "--output_dir",
            dest="output",
            type=Path,
            metavar="DIR",
            help="where to (default: where the launchers look; bert: models/NAME)",
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    args = parse(arguments)
    run_as_script(lambda: args.run(args), args.debug)


if __name__ == "__main__":
    main()
