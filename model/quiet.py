"""Messages of other people's libraries that tell a user of this toolkit nothing, kept from the terminal."""

from __future__ import annotations

import logging

#: Logger -> words of what it says while torchao is imported (Transformers does so wherever torchao is installed): that
#: kernels for GPUs could not be loaded on a machine without one, and what torch will want of torchao in the future.
_USELESS = {
    "torchao": ("Failed to load ",),
    "torch.utils._pytree": ("is an Enum subclass and is now natively supported",),
}


class _Without(logging.Filter):
    """Drops records that contain one of some words."""

    def __init__(self, words: tuple[str, ...]) -> None:
        super().__init__()
        self._words = words

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be told."""
        message = record.getMessage()
        return not any(word in message for word in self._words)


def hush() -> None:
    """Keep those messages, and no others, from being told; repeating it changes nothing."""
    for name, words in _USELESS.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Without) for known in logger.filters):
            logger.addFilter(_Without(words))
