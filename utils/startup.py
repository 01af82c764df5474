"""What an entry script does before it imports the libraries, which takes seconds. Needs none of them itself."""

from __future__ import annotations

import signal

from utils.installation import import_torch


def begin() -> None:
    """End quietly at Ctrl-C while the libraries load, and in one sentence where torch itself cannot be imported.

    `utils.errors.run_as_script` takes over from here. A handler that somebody else has set stays.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import_torch()
