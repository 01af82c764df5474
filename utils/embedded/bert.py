"""The embedded BERT: an untrained one with a WordPiece tokenizer, made on the spot from the embedded corpus.

    CHECKPOINTS/bert/{size}      config.json, model.safetensors, tokenizer, vocab.txt, manifest.json

`python -m utils.embedded.bert --size tiny` makes it, and the data of `utils.embedded` with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.arguments import ToolParser
from utils.embedded.build import EmbeddedPaths, Say, build_data, make_once
from utils.errors import UserError, run_as_script
from utils.hints import next_lines
from utils.tool_steps import after_embedded_bert

# Counted up whenever what is made changes.
FORMAT_VERSION = 1
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class BertSize:
    """Sizes of a BERT whose FFN is four times as wide as it, and of its vocabulary."""

    width: int
    layers: int
    heads: int
    vocab_size: int


BERT_SIZES = {"tiny": BertSize(width=128, layers=4, heads=4, vocab_size=3000)}


def train_word_pieces(files: Sequence[Path], vocab_size: int) -> Any:
    """A lower-casing WordPiece tokenizer of at most `vocab_size` tokens, the special ones first as in BERT."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train([str(file) for file in files], vocab_size=vocab_size, show_progress=False)
    pieces = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    ordered = [*_SPECIAL, *(piece for piece, _ in pieces if piece not in _SPECIAL)]
    return BertTokenizerFast(vocab={piece: i for i, piece in enumerate(ordered)}, do_lower_case=True)


def write_bert(folder: Path, size: BertSize, corpus: Path, seed: int, say: Say) -> dict[str, Any]:
    """Save an untrained BERT with its tokenizer; gives its number of parameters."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    tokenizer = train_word_pieces([corpus / "train.txt"], size.vocab_size)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForPreTraining(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece, _ in vocabulary), encoding="utf-8")
    num_params = sum(parameter.numel() for parameter in model.parameters())
    say(f"  BERT: {num_params:,} parameters, {len(tokenizer)} tokens")
    return {"num_params": num_params, "vocab_size": len(tokenizer)}


def build_bert(size: str, paths: EmbeddedPaths, *, seed: int = 1, say: Say = print) -> None:
    """Make data, tokenizer and untrained BERT of `size`, or say that they are there already.

    Raises:
        UserError: an unknown size.
    """
    if size not in BERT_SIZES:
        raise UserError(f"--size {size}: unknown; known: {', '.join(BERT_SIZES)}")
    data_settings = build_data(paths.data, seed, say)
    settings = {**data_settings, "bert_format": FORMAT_VERSION, "size": asdict(BERT_SIZES[size])}
    make_once(
        paths.backbone,
        settings,
        lambda folder: write_bert(folder, BERT_SIZES[size], paths.data / "corpus", seed, say),
        f"untrained {size} BERT and tokenizer",
        say,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the tool."""
    parser = ToolParser(
        prog="python -m utils.embedded.bert",
        description="Makes the embedded default's data and an untrained BERT; what is there already is used again.",
    )
    parser.add_argument("--size", choices=tuple(BERT_SIZES), default="tiny", help="size of the BERT (default: tiny)")
    parser.add_argument(
        "--data_dir", dest="data", type=Path, metavar="DIR", help="folder of the data (default: data/SIZE)"
    )
    parser.add_argument(
        "--output_dir",
        dest="output",
        type=Path,
        metavar="DIR",
        help="of the BERT (default: checkpoints/bert/SIZE/init)",
    )
    parser.add_argument("--seed", type=int, least=0, default=1, help="seed of text and weights (default: 1)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    data, output = args.data or Path("data") / args.size, args.output or Path("checkpoints/bert") / args.size / "init"
    run_as_script(lambda: build_bert(args.size, EmbeddedPaths(data, output), seed=args.seed), args.debug)
    is_default = args.data is None and args.output is None
    print(next_lines(after_embedded_bert(args.size, data, output, is_default)))


if __name__ == "__main__":
    main()
