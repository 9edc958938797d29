"""Notices of the library on stderr (cnnkit.cli.streams)."""

import io
import logging

import pytest

from cnnkit.cli.streams import notices
from cnnkit.errors import FormatError, UsageError
from cnnkit.messages import BEGINS_WORK, WAITS_FOR_WORK

log = logging.getLogger("cnnkit")


def device():
    log.info("device: cpu", extra=WAITS_FOR_WORK)


def fail(error):
    """Do what a command does that fails after it logged its device, a warning and a notice."""
    with notices("cnn-x", level=logging.INFO):
        device()
        log.warning("a warning")
        log.info("a notice")
        raise error


def test_notices_have_the_name_of_the_command_and_one_line(capsys):
    """Control characters are escaped, so that a name cannot write over the terminal."""
    with notices("cnn-x", level=logging.INFO):
        log.info("%s: 2 images skipped", "a\x1b[2J\nb")
        log.debug("not of this level")
    assert capsys.readouterr() == ("", "cnn-x: a\\x1b[2J\\nb: 2 images skipped\n")


def test_quiet_hides_notices_but_not_warnings(capsys):
    with notices("cnn-x", level=logging.WARNING):
        device()
        log.warning("a warning")
    assert capsys.readouterr().err == "cnn-x: a warning\n"


def test_the_device_and_later_notices_wait_for_work(capsys):
    """They keep their order; after the first work, notices are printed at once."""
    with notices("cnn-x", level=logging.INFO) as handler:
        log.info("one")
        device()
        log.warning("two")
        assert capsys.readouterr().err == "cnn-x: one\n"
        handler.print_waiting()
        assert capsys.readouterr().err == "cnn-x: device: cpu\ncnn-x: two\n"
        handler.print_waiting()
        log.info("three")
        assert capsys.readouterr().err == "cnn-x: three\n"


def test_a_notice_can_begin_the_work(capsys):
    """As a download does, which takes long: what waits is printed before it."""
    with notices("cnn-x", level=logging.INFO):
        device()
        log.info("downloading", extra=BEGINS_WORK)
        assert capsys.readouterr().err == "cnn-x: device: cpu\ncnn-x: downloading\n"


def test_notices_that_wait_are_printed_at_the_end(capsys):
    """Also before an error of the work, such as a broken file."""
    with notices("cnn-x", level=logging.INFO):
        device()
    assert capsys.readouterr().err == "cnn-x: device: cpu\n"
    with pytest.raises(FormatError):
        fail(FormatError("broken"))
    assert capsys.readouterr().err == "cnn-x: device: cpu\ncnn-x: a warning\ncnn-x: a notice\n"


def test_a_usage_error_is_preceded_by_warnings_only(capsys):
    """The device does not matter if the options are wrong."""
    with pytest.raises(UsageError):
        fail(UsageError("wrong options"))
    assert capsys.readouterr().err == "cnn-x: a warning\n"


def test_prints_on_the_stderr_of_the_moment(capsys, monkeypatch):
    """A progress bar replaces sys.stderr while it is drawn."""
    other = io.StringIO()
    with notices("cnn-x", level=logging.INFO):
        monkeypatch.setattr("sys.stderr", other)
        log.info("above the bar")
    assert other.getvalue() == "cnn-x: above the bar\n"
    assert capsys.readouterr().err == ""


def test_a_failing_stderr_is_ignored(monkeypatch):
    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(28, "No space left on device")

    with notices("cnn-x", level=logging.INFO):
        monkeypatch.setattr("sys.stderr", Full())
        log.info("lost")


@pytest.mark.parametrize("error", [None, UsageError("wrong"), KeyboardInterrupt()])
def test_logging_is_restored(error):
    """The level, handlers and propagation of the logger, and Python's last resort."""
    before = (log.level, log.propagate, [*log.handlers], logging.lastResort)
    try:
        with notices("cnn-x", level=logging.WARNING):
            assert (log.level, log.propagate) == (logging.WARNING, False)
            if error is not None:
                raise error
    except (UsageError, KeyboardInterrupt) as raised:
        assert raised is error  # noqa: PT017 - any of them, or none
    assert (log.level, log.propagate, log.handlers, logging.lastResort) == before
