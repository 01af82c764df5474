"""Tasks, readers, prompts, features, collation and batches.

Readers give examples, encoders turn examples into features, a collator pads features into tensors, and a
batch source hands them to the engine, split over processes. Nothing here knows a model.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataset.batches import BatchSource, BucketedBatches, StreamedBatches
    from dataset.collate import Batch, Collator
    from dataset.corpus import find_corpus_files, iter_lines
    from dataset.errors import DataError
    from dataset.features import DECODER_START, IGNORED, Feature, encode_classification, encode_squad
    from dataset.glue import GlueExample, read_glue
    from dataset.prompts import render, sentinel_id, verbalizer_ids
    from dataset.sources import Line
    from dataset.span_corruption import SpanCorruptionEncoder, corrupt, random_spans, span_counts
    from dataset.squad import SquadExample, read_squad
    from dataset.tasks import TASKS, Split, Task, TaskKind, get_task
    from dataset.tokens import TaggedSentence, TokenCollator, TokenFeature, encode_tagged, read_tagged

__all__ = [
    "DECODER_START",
    "IGNORED",
    "TASKS",
    "Batch",
    "BatchSource",
    "BucketedBatches",
    "Collator",
    "DataError",
    "Feature",
    "GlueExample",
    "Line",
    "SpanCorruptionEncoder",
    "Split",
    "SquadExample",
    "StreamedBatches",
    "TaggedSentence",
    "Task",
    "TaskKind",
    "TokenCollator",
    "TokenFeature",
    "corrupt",
    "encode_classification",
    "encode_squad",
    "encode_tagged",
    "find_corpus_files",
    "get_task",
    "iter_lines",
    "random_spans",
    "read_glue",
    "read_squad",
    "read_tagged",
    "render",
    "sentinel_id",
    "span_counts",
    "verbalizer_ids",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A public name, when it is first asked for: most need torch, which takes seconds to load."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from dataset import errors, tasks

        modules = [errors, tasks]
        if not any(name in vars(module) for module in modules):
            from dataset import (
                batches,
                collate,
                corpus,
                features,
                glue,
                prompts,
                sources,
                span_corruption,
                squad,
                tokens,
            )

            modules = [batches, collate, corpus, features, glue, prompts, sources, span_corruption, squad, tokens]
        globals()[name] = found = next(vars(module)[name] for module in modules if name in vars(module))
        return found
