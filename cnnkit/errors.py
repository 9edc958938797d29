"""Errors that a user can fix; any other exception is a bug and keeps its traceback.

CnnkitError              one line: what, where, remedy               exit 1
├── UsageError           arguments or options are wrong              exit 2
│   └── NotationError    a word in a notation is wrong; names it     exit 2
├── FormatError          a file is not of the expected kind          exit 1
├── DeviceError          the requested device is not available       exit 1
│   └── MemoryFullError  out of memory, on the device or the machine exit 1
├── MissingPackageError  a needed package is not installed        exit 1
├── WorkerError          a process that decodes images was killed    exit 1
├── RunError             a network does not accept its input         exit 1
├── BadImageError        an image cannot be used                     skipped, exit 3
└── GateError            a measure misses the required bound         exit 4
"""


class CnnkitError(Exception):
    """An error that the user can fix; the message gives what, where and the remedy, in one line."""

    exit_status = 1


class UsageError(CnnkitError):
    """Arguments or options are wrong or contradict each other."""

    exit_status = 2


class NotationError(UsageError):
    """A word in a layer or augmentation notation is unknown or out of place."""


class FormatError(CnnkitError):
    """A file is broken, of another kind or version, or does not belong with another file."""


class DeviceError(CnnkitError):
    """The requested device does not exist or failed."""


class MemoryFullError(DeviceError):
    """The work needs more memory than the device, or the machine, has."""


class MissingPackageError(CnnkitError):
    """A package that only some commands need is not installed."""


class WorkerError(CnnkitError):
    """A process that decodes images was killed or ended by itself."""


class RunError(CnnkitError):
    """A network fails on its input, such as a wrong shape or type; `reason` is the runtime's message."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what, self.reason = what, reason

    def __reduce__(self) -> tuple[type["RunError"], tuple[str, str], dict[str, object]]:
        """Return what makes it again in another process: its two arguments, not its message."""
        return type(self), (self.what, self.reason), self.__dict__


class BadImageError(CnnkitError):
    """An image cannot be used; readers of many images skip and name it."""

    exit_status = 3


class GateError(CnnkitError):
    """A measure misses the bound set by `--fail-under`, `--max-params` or a similar option."""

    exit_status = 4
