"""The command line: a file for each verb, which parses, calls one stage, and prints one result."""

import os
import signal

if os.getpid() == 1:
    # A container's first process ignores what it has no handler for: SIGTERM in the third of a second until `main` has
    # set its own would be lost, and the container killed only when its grace is over. Nothing has begun yet.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
