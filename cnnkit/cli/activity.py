"""A spinner on stderr while a command prints nothing: during imports, loading, export, or work on a single image.

It appears after a second without a progress bar or a row on the terminal, and disappears before the next one.
"""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.live import Live
    from rich.spinner import Spinner

#: Seconds without output before it appears.
DELAY = 1.0


class Activity:
    """The spinner with a label, shown while nothing else on the terminal shows that the command is working."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled, self._label = enabled, "starting"
        self._lock = threading.RLock()
        self._due = math.inf  # the monotonic time at which it appears, unless output postpones it
        self._thread: threading.Thread | None = None  # waits until then
        self._looks, self._earlier = (
            math.inf,
            threading.Condition(self._lock),
        )  # the time at which the thread wakes up by itself
        self._spinner: Spinner | None = None
        self._live: Live | None = None
        self._covered = 0  # number of progress bars
        self._stderr = sys.stderr

    def name(self, label: str) -> None:
        """Set the label."""
        with self._lock:
            self._label = label
            if self._spinner is not None:
                self._spinner.update(text=_text(label))

    def hide(self) -> None:
        """Hide the spinner for other output; it appears again after another delay."""
        if not self._enabled:
            return
        with self._lock:
            if self._live is not None:
                self._live.stop()
                self._live = self._spinner = None
            self._due = math.inf if self._covered else time.monotonic() + DELAY
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, daemon=True)
                self._thread.start()
            elif self._due < self._looks:
                self._earlier.notify_all()

    def _watch(self) -> None:
        """Show the spinner when it is due, until the command ends; output postpones it without waking this thread."""
        with self._lock:
            while self._enabled:
                self._looks = self._due
                left = self._due - time.monotonic()
                if left > 0:
                    self._earlier.wait(left if math.isfinite(left) else None)
                    continue
                # The command's thread may have replaced stderr for a while
                if sys.stderr is not self._stderr:
                    self._due = time.monotonic() + DELAY
                    continue
                self._due = math.inf
                self._show()

    def _show(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._spinner = Spinner("dots", text=_text(self._label), style="status.spinner")
        self._live = Live(
            self._spinner,
            console=Console(file=sys.stderr),
            transient=True,
            refresh_per_second=12.5,
            redirect_stdout=False,
        )
        self._live.start()

    @contextlib.contextmanager
    def covered(self) -> Generator[None]:
        """Hide the spinner while a progress bar is drawn."""
        with self._lock:
            self._covered += 1
            self.hide()
        try:
            yield
        finally:
            with self._lock:
                self._covered -= 1
                self._label = "working"
                self.hide()

    @contextlib.contextmanager
    def watching(self, out: TextIO) -> Generator[TextIO]:
        """Run the spinner for a command; yields its output stream, which on a terminal hides the spinner before it writes."""
        if not self._enabled:
            yield out
            return
        self._stderr = sys.stderr
        self.hide()
        try:
            yield cast(TextIO, _Hiding(out, self)) if out.isatty() else out
        finally:
            with self.covered(), self._lock:
                self._enabled = False  # never shown again
                self._earlier.notify_all()


class _Hiding:
    """A stream that hides the spinner before each output."""

    def __init__(self, stream: TextIO, activity: Activity) -> None:
        self._stream, self._activity = stream, activity

    def write(self, text: str) -> int:
        """Hide the spinner and write."""
        self._activity.hide()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a stream has
        return getattr(self._stream, name)


def _text(label: str) -> str:
    return f"{label} ..."


def wanted(*, quiet: bool) -> bool:
    """Return whether to show a spinner: stderr is a terminal, and standard input is not being typed there."""
    typing = "-" in sys.argv and sys.stdin is not None and sys.stdin.isatty()
    return not quiet and not typing and sys.stderr is not None and sys.stderr.isatty()
