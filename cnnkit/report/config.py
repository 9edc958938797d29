"""Configuration of reports: one dataclass field for each option. No numpy."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cnnkit.engine import device as devices
from cnnkit.errors import UsageError
from cnnkit.evaluation import bounds
from cnnkit.evaluation.config import Bounded, MatchConfig, bound_option
from cnnkit.formats import atomic
from cnnkit.option_fields import device_option, given, jobs_option, option

#: The name that stands for standard output.
STDOUT = Path("-")
#: Options of which only the page shows something.
_OF_THE_PAGE = ("model", "history", "worst", "check", "device", "jobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig(MatchConfig, Bounded):
    """What is written, what is in it, and the bounds on measures."""

    output: Path | None = option(
        None, "Report to write, one HTML file with everything in it.", "--output", "-o", metavar="FILE.html"
    )
    markdown: Path | None = option(
        None, "Summary to write, in GitHub's Markdown, as for a pull request; - for standard output.", metavar="FILE"
    )
    junit: Path | None = option(
        None,
        "Test results to write, in JUnit's XML, as CI systems read them: a test for each bound and each class.",
        metavar="FILE",
    )
    model: Path | None = option(
        None,
        "The .onnx or .pt that made the predictions: adds how it was made, its training history, and heat maps of mistakes. "
        "An .onnx has heat maps if it is from cnn-export --cam.",
        "--model",
        "-m",
        metavar="MODEL",
    )
    history: Path | None = option(
        None, "Training history. [default: the .csv next to MODEL, if there is one]", metavar="FILE.csv"
    )
    title: str | None = option(None, "Title of the report. [default: the names of the files]", metavar="TEXT")
    worst: int = option(
        24,
        "Show the N most confident wrong predictions with their images; with several labels per image, those of each label in turn. 0 "
        "opens no image.",
        minimum=0,
        metavar="N",
    )
    check: bool = option(
        False,
        "Also decode all images of the truth, and list broken images, duplicates, and duplicates in several splits, as cnn-check does.",
    )
    fail_under: list[str] | None = bound_option("below", bounds.HIGHER_IS_BETTER)
    fail_over: list[str] | None = bound_option("above", bounds.LOWER_IS_BETTER)
    device: str = device_option()
    jobs: int | None = jobs_option()

    def checked(self) -> Self:
        """Check that something is written, and that names and bounds can be read.

        Raises:
            UsageError: Nothing is written, two files have one name, a name has another extension, or a bound is invalid.
            CnnkitError: There is no folder for a file.
        """
        written = [file for file in (self.output, self.markdown, self.junit) if file is not None]
        if not written:
            raise UsageError("nothing to write; give -o report.html, --markdown FILE or --junit FILE")
        if len({os.path.realpath(file) for file in written}) < len(written):
            raise UsageError(f"{written[-1]}: two files of the report have this name; choose another one")
        if self.output is not None and self.output.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"{self.output}: the report is an HTML page; give it a name that ends in .html")
        if self.junit == STDOUT:
            raise UsageError("--junit -: test results are written to a file; give it a name, such as report.xml")
        for file in written:
            if file != STDOUT:
                atomic.check_folder(file)
        if self.output is None and (unused := self._of_the_page()):
            raise UsageError(f"{unused} is for the HTML page; add -o report.html, or drop it")
        if self.model is not None and self.model.suffix not in (".onnx", ".pt"):
            raise UsageError(f"--model {self.model}: expected a .onnx or .pt file made by cnnkit")
        devices.parse(self.device)
        self.floors()
        self.ceilings()
        return self

    def check_apart(self, *sources: str | Path | None) -> None:
        """Check that no file of the report would replace what is read.

        Raises:
            UsageError: One would.
        """
        for file in (self.output, self.markdown, self.junit):
            for source in (*sources, self.model, self.history):
                if None in (file, source) or file == STDOUT:
                    continue
                if os.path.realpath(str(file)) == os.path.realpath(str(source)):
                    raise UsageError(
                        f"{file} is read, and would be replaced by a file of the report; choose another name"
                    )

    def _of_the_page(self) -> str | None:
        """Return an option that was given and of which only the page shows something."""
        return next(iter(given(self, names=_OF_THE_PAGE)), None)
