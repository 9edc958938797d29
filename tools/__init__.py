"""One file per command: parse, one library call, emit. Installed under the name `cnnkit_tools`.

What is here comes before a command imports anything else: a stream that is closed must not have its number taken by a file that is
opened later, and Ctrl-C during the imports ends the process without a traceback.
"""

import os
import signal
import sys


def _take_streams() -> None:
    """Open /dev/null in place of the standard streams that are closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free


def _stop(_number: int, _frame: object) -> None:
    """End at once: there is no work yet that would have to be undone, or none any more."""
    name = os.path.basename(sys.argv[0]).removesuffix(".py").replace("_", "-")
    try:
        os.write(2, os.fsencode(f"{name}: interrupted\n"))
    finally:
        os._exit(130)


_stop.before_work = True  # type: ignore[attr-defined] # read by cnnkit.cli.streams.interruptible

if os.path.basename(sys.argv[0]).startswith(("cnn-", "cnn_")):  # not where a test or another program imports a command
    _take_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
