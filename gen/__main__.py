"""``python -m gen``."""

import sys

from gen.cli import main

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        # Rather a question mark for a character that the terminal lacks than no answer.
        stream.reconfigure(errors="replace")
    main(prog_name="python -m gen")
