"""What the entry scripts share, and the command-line tools of the toolkit (`python -m utils.NAME`)."""

import logging
import os
import sys

from utils.streams import fill_closed

fill_closed()  # before any file is opened
# As model/quiet.py, which costs the import of all models; a tool may import Transformers before it.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
# Without a terminal, the libraries' own progress bars would only litter the log. They look at this when they load.
if not sys.stderr.isatty():
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
