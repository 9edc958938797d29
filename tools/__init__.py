"""One file per command: parse, call the library once, print. Installed as `cnnkit_tools`.

This module runs before a command imports anything else: no file that is opened later may get the number of a closed standard stream, and
Ctrl-C during the imports must end the process without a traceback.
"""

import os
import signal
import sys


def _take_streams() -> None:
    """Open /dev/null in place of closed standard streams."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number


def _stop(_number: int, _frame: object) -> None:
    """End the process at once: there is nothing to clean up before or after the command's work."""
    name = os.path.basename(sys.argv[0]).removesuffix(".py").replace("_", "-")
    try:
        os.write(2, os.fsencode(f"{name}: interrupted\n"))
    finally:
        os._exit(130)


_stop.before_work = True  # type: ignore[attr-defined] # read by cnnkit.cli.streams.interruptible

if os.path.basename(sys.argv[0]).startswith(("cnn-", "cnn_")):  # not if a test or another program imports a command
    _take_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
