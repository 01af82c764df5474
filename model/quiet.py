"""Imported first: keeps other libraries' remarks about kernels of other machines out of every process's first lines.

Transformers imports torchao wherever it is installed. Warnings that come later, when the library is used, stay.
"""

import logging

for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
