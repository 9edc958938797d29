"""The errors that a user can mend; everything else is a bug and keeps its traceback.

CnnkitError              one line: what, where, remedy               exit 1
├── UsageError           the words on the command line do not fit    exit 2
│   └── NotationError    a word in a notation; points at it          exit 2
├── FormatError          a file is not what its place asks for       exit 1
├── DeviceError          the device asked for is not to be had       exit 1
│   └── MemoryFullError  a memory is too small for the work          exit 1
├── RunError             a network does not take what it is given    exit 1
├── BadImageError         one image cannot be used                  skipped, exit 3
└── GateError            a measure is below what was demanded        exit 4
"""


class CnnkitError(Exception):
    """Something the user can mend; the message says what, where and how, in one line."""

    exit_status = 1


class UsageError(CnnkitError):
    """The words on the command line do not fit together."""

    exit_status = 2


class NotationError(UsageError):
    """A word in a layer or augmentation notation that means nothing there."""


class FormatError(CnnkitError):
    """A file that is broken, of another kind, of another version, or does not belong to its neighbour."""


class DeviceError(CnnkitError):
    """The device asked for does not exist or does not do the work."""


class MemoryFullError(DeviceError):
    """The memory of a device, or of the machine, does not hold the work."""


class RunError(CnnkitError):
    """A network fails on what it is given, a shape or a type that it does not take; `reason` is the runtime's own."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.reason = reason


class BadImageError(CnnkitError):
    """One image that cannot be used; readers of many skip and name it."""

    exit_status = 3


class GateError(CnnkitError):
    """A measure that misses the bound set by `--fail-under`, `--max-params` and their like."""

    exit_status = 4
