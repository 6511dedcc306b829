"""`surefoot` and `python -m surefoot_lab`."""

import os
import sys
from typing import NoReturn


def run() -> NoReturn:
    """Run the command and end the process with its exit code.

    One of several processes ends at once: a thread of Gloo that still frees a tensor while Python
    shuts down aborts it, which on a busy machine turns a run that was finished into a failed one.
    """
    try:
        from surefoot_lab.cli import main
    except ModuleNotFoundError as error:  # the library alone is installed
        sys.exit(f"surefoot: error: the command needs {error.name}: pip install 'surefoot[lab]'")
    code = main()
    if "RANK" not in os.environ:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
