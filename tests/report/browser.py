"""A headless Chromium, driven by the DevTools protocol through a pipe: what a page loads, reports, and looks like at a width."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A browser with one page.

    `events` are those of the page, as (method, parameters).
    """

    def __init__(self, program, profile):
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        # The protocol is on the descriptors 3 and 4; the shell must not overwrite one before it is used
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (commands, answers)]
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]}'),
                *(program, *flags, "--remote-debugging-pipe", f"--user-data-dir={profile}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=high,
        )
        for descriptor in (commands, answers, *high):
            os.close(descriptor)
        self._session, self._number, self._rest = None, 0, b""
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def close(self):
        """End the browser."""
        os.close(self._write)
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._read)

    def _message(self):
        while b"\0" not in self._rest:
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def call(self, method, **parameters):
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._write, left) :]
        while (found := self._message()).get("id") != self._number:
            self.events.append((found.get("method"), found.get("params", {})))
        assert "error" not in found, found
        return found["result"]

    def wait_for(self, method):
        """Wait for an event."""
        while all(name != method for name, _ in self.events):
            found = self._message()
            self.events.append((found.get("method"), found.get("params", {})))

    def open(self, path, *, width, height=900, scheme="light"):
        """Open a file at a width in pixels, with a fresh list of events."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media="", features=features)
        self.events.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("Page.loadEventFired")

    def evaluate(self, expression):
        """Evaluate an expression of JavaScript in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, *, top=0, height=None):
        """Return a PNG of the whole page, or of a part of it."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": top, "width": size["width"], "height": height or size["height"], "scale": 1}
        return base64.b64decode(
            self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        )

    def pdf(self):
        """Return the page as it is printed, a PDF."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"])


@contextlib.contextmanager
def browser():
    """Start a browser with a profile of its own, and end it afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        opened = Browser(PROGRAM, profile)
        try:
            yield opened
        finally:
            opened.close()
