"""What an entry script does before it imports the libraries, which takes seconds. Needs none of them itself."""

from __future__ import annotations

import signal

from utils.installation import import_torch
from utils.streams import protect


def begin() -> None:
    """Protect the standard streams; end quietly at Ctrl-C while the libraries load, and in one sentence without torch.

    `utils.errors.run_as_script` takes over from here. A handler that somebody else has set stays.
    """
    protect()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import_torch()
