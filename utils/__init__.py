"""What the entry scripts share, and the command-line tools of the toolkit (`python -m utils.NAME`)."""

import logging

# As model/quiet.py, which costs the import of all models; a tool may import Transformers before it.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
