"""What an entry script does before it imports the libraries, which takes seconds. Needs none of them itself."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO

from utils.arguments.reading import looking
from utils.errors import run_as_script
from utils.installation import import_torch
from utils.streams import protect


def begin(parse: Callable[[], object]) -> None:
    """Answer `--help`, flags that are refused and paths that are not there, before the libraries load.

    Then protect the standard streams; end quietly at Ctrl-C while the libraries load, and in one sentence without
    torch. `utils.errors.run_as_script` takes over from here. A handler that somebody else has set stays.

    Args:
        parse: reads the command line, as the script itself will do again; its warnings are left for that.
    """
    protect()
    warnings = StringIO()

    def quietly() -> None:
        try:
            with redirect_stderr(warnings), looking():
                parse()
        except ImportError:
            import_torch()
            raise
        except SystemExit:  # a tool's parser has told what is wrong
            sys.stderr.write(warnings.getvalue())
            raise

    run_as_script(quietly, debug="--debug" in sys.argv)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import_torch()
