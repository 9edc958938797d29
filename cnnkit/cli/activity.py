"""A spinner on stderr for the time in which a command is silent: it imports, loads, exports, or works at a single image.

It appears after a second without a bar or a row on the terminal, and is gone before the next one.
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

#: Seconds of silence before it appears.
DELAY = 1.0


class Activity:
    """What goes on, in words: shown while nothing else on the terminal shows that the command works."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled, self._label = enabled, "starting"
        self._lock = threading.RLock()
        self._due = math.inf  # when it appears, by the monotonic clock, unless something moves that
        self._thread: threading.Thread | None = None  # which waits for that; one for all
        self._looks, self._earlier = math.inf, threading.Condition(self._lock)  # when it looks, unless it is woken
        self._spinner: Spinner | None = None
        self._live: Live | None = None
        self._covered = 0  # bars that are drawn
        self._stderr = sys.stderr

    def name(self, label: str) -> None:
        """Say what goes on from now on."""
        with self._lock:
            self._label = label
            if self._spinner is not None:
                self._spinner.update(text=_text(label))

    def hide(self) -> None:
        """Make room for something else on the terminal; it comes back after another while of silence."""
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
        """Show it whenever it is due, until the command is over. Each line of output puts it off, which wakes nobody."""
        with self._lock:
            while self._enabled:
                self._looks = self._due
                left = self._due - time.monotonic()
                if left > 0:
                    self._earlier.wait(left if math.isfinite(left) else None)
                    continue
                # The command's own thread may have put another stream in its place for a while
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
        """Stay away while a bar is drawn."""
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
        """Watch a command; gives its output, which hides the spinner before it writes, where it goes to a terminal."""
        if not self._enabled:
            yield out
            return
        self._stderr = sys.stderr
        self.hide()
        try:
            yield cast(TextIO, _Hiding(out, self)) if out.isatty() else out
        finally:
            with self.covered(), self._lock:
                self._enabled = False  # after this nothing starts it again
                self._earlier.notify_all()


class _Hiding:
    """A stream of which every piece of output hides the spinner first."""

    def __init__(self, stream: TextIO, activity: Activity) -> None:
        self._stream, self._activity = stream, activity

    def write(self, text: str) -> int:
        """Write, with the spinner out of the way."""
        self._activity.hide()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a stream has
        return getattr(self._stream, name)


def _text(label: str) -> str:
    return f"{label} ..."


def wanted(*, quiet: bool) -> bool:
    """Decide whether a spinner is wanted: stderr is a terminal, and nobody types words there that are read."""
    typing = "-" in sys.argv and sys.stdin is not None and sys.stdin.isatty()
    return not quiet and not typing and sys.stderr is not None and sys.stderr.isatty()
