"""The edit that replaces a model's word embedding by a factorised one, and its settings in `config.json`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from model.backbone import ENCT5, T5, family_of, spec_for
from model.compression import EditConfig, is_whole, register_edit
from model.decomposition.embeddings.base import FactorisedEmbedding
from model.decomposition.embeddings.ket import EmbeddingKet
from model.decomposition.embeddings.ketxs import EmbeddingKetXS
from model.decomposition.embeddings.output import TiedOutput
from model.decomposition.embeddings.tensor_train import EmbeddingTensorRing, EmbeddingTensorTrain
from model.errors import ModelError


class _Type(NamedTuple):
    make: type[FactorisedEmbedding]
    order: int
    rank: int


#: The classes with their default order and rank; those of ket and ketxs are the original's.
TYPES = MappingProxyType(
    {
        "ket": _Type(EmbeddingKet, 2, 1),
        "ketxs": _Type(EmbeddingKetXS, 4, 1),
        "tt": _Type(EmbeddingTensorTrain, 3, 32),
        "tr": _Type(EmbeddingTensorRing, 3, 32),
    }
)


@register_edit
@dataclass(frozen=True)
class EmbeddingConfig(EditConfig):
    """A factorised word embedding, and with it the output layer that is tied to it.

    Attributes:
        embedding_type: ket (a sum of Kronecker products per row), ketxs (the same for the whole table), tt (tensor
            train) or tr (tensor ring).
        order: number of factors, at least 2 (default: 2, 4, 3, 3 in the order of the types).
        rank: number of products, or the largest inner rank (default: 1, 1, 32, 32).
    """

    kind: ClassVar[str] = "embedding"

    embedding_type: str = "ket"
    order: int | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.embedding_type, str) or self.embedding_type not in TYPES:
            near = difflib.get_close_matches(str(self.embedding_type).lower(), TYPES, n=1, cutoff=0.4)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ModelError(f"embedding_type is one of {', '.join(TYPES)}, found {self.embedding_type!r}{hint}.")
        chosen = TYPES[self.embedding_type]
        for name, default, least in (("order", chosen.order, 2), ("rank", chosen.rank, 1)):
            value = getattr(self, name)
            if value is None:  # config.json gets the number, so that a later default changes no saved model
                object.__setattr__(self, name, default)
            elif not is_whole(value) or value < least:
                raise ModelError(f"An embedding's {name} must be a whole number of at least {least}, found {value!r}.")

    def apply(self, model: PreTrainedModel) -> None:
        """Replace the word embedding by one fitted to its table; `relative_error` of the new one tells how near."""
        dense = _dense_embedding(model)
        _check_tie(model, dense)
        factorised = self._new(dense).to(dense.weight)
        factorised.fit(dense.weight)
        _replace(model, factorised)

    def build(self, model: PreTrainedModel) -> None:
        """The same structure with freshly drawn factors; looks at no weight."""
        dense = _dense_embedding(model)
        factorised = self._new(dense).to(dense.weight)
        if not dense.weight.is_meta:
            factorised.reset_parameters(std=getattr(model.config, "initializer_range", 0.02))
        _replace(model, factorised)

    def own_modules(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """`embedding` -> the factors."""
        return {"embedding": factorised_embedding(model)}

    def _new(self, dense: nn.Embedding) -> FactorisedEmbedding:
        num_embeddings, width = dense.num_embeddings, dense.embedding_dim
        assert self.order is not None and self.rank is not None
        module = TYPES[self.embedding_type].make(num_embeddings, width, self.order, self.rank, dense.padding_idx)
        most = module.largest_rank()
        if most is not None and self.rank > most:
            raise ModelError(
                f"rank {self.rank} is larger than {most}, at which {self.embedding_type} of order {self.order} holds "
                f"any table of {num_embeddings} x {width}."
            )
        return module


def factorised_embedding(model: PreTrainedModel) -> FactorisedEmbedding:
    """The model's factorised word embedding.

    Raises:
        ModelError: it has a dense one.
    """
    module = spec_for(model).embeddings(model).module
    if not isinstance(module, FactorisedEmbedding):
        raise ModelError(f"The model carries no factorised embedding: its word embedding is a {type(module).__name__}.")
    return module


def _dense_embedding(model: PreTrainedModel) -> nn.Embedding:
    if family_of(model.config) in (T5.family, ENCT5.family):
        raise ModelError(
            "Factorised embeddings are for BERT: T5 shares one table among encoder, decoder and head, which has no "
            "factorised form here."
        )
    slot = spec_for(model).embeddings(model)
    if not isinstance(slot.module, nn.Embedding):
        raise ModelError(f"Expected a dense embedding at {slot.name}, found {type(slot.module).__name__}.")
    return slot.module


def _is_tied(model: Any) -> bool:
    """Whether an output layer takes the embedding's weight. The config decides: while loading, nothing is tied yet."""
    return model.get_output_embeddings() is not None and bool(model.config.tie_word_embeddings)


def _check_tie(model: Any, dense: nn.Embedding) -> None:
    if _is_tied(model) and model.get_output_embeddings().weight is not dense.weight:
        raise ModelError(
            "config.tie_word_embeddings is true, but the output layer has a weight of its own: set it to false, or "
            "call tie_weights()."
        )


def _replace(model: Any, factorised: FactorisedEmbedding) -> None:
    slot = spec_for(model).embeddings(model)
    slot.replace(factorised.train(slot.module.training))
    if _is_tied(model):
        model.set_output_embeddings(TiedOutput(factorised, model.get_output_embeddings().bias))
    # The table is no parameter any more: Transformers must not look for it among the weights that it ties by name.
    for name in ("_tied_weights_keys", "all_tied_weights_keys"):
        ties: dict[str, str] = getattr(model, name) or {}
        setattr(model, name, {k: v for k, v in ties.items() if not v.endswith(f"{slot.name}.weight")})
