"""The manual pages in docs/man: current, complete, correct roff, and found by man where the wheel installs them."""

import ast
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import typer.core

from cnnkit.cli import man

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "man"
PAGES = sorted(FOLDER.glob("man?/*"))
COMMANDS = sorted(entry.name for entry in distribution("cnnkit").entry_points if entry.group == "console_scripts")

every_command = pytest.mark.parametrize("name", COMMANDS)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

# Before 0.29 typer writes other words for types.
like_ours = pytest.mark.skipif(not hasattr(typer.core.TyperOption, "display_type_rich"), reason="an older typer")

CHARACTERS = {"\\-": "-", "\\(aq": "'", "\\(ga": "`", "\\(ha": "^", "\\(ti": "~", "\\(dq": '"', "\\e": "\\", "\\&": ""}


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def sections(name):
    """Read a page as text by sections, with one space where there is space."""
    found, text = {}, []
    for line in (FOLDER / "man1" / f"{name}.1").read_text(encoding="ascii").splitlines():
        if match := re.match(r"\.SH (.*)", line):
            text = found[match[1]] = []
        elif match := re.match(r"\.(?:SS|BR) (.*)", line):
            text.append(plain(match[1]))
        elif not line.startswith("."):
            text.append(plain(line))
    return {heading: " ".join(" ".join(text).split()) for heading, text in found.items()}


def subsections(name):
    """List the groups of options of a page."""
    options = re.search(r"(?ms)^\.SH OPTIONS\n(.*?)^\.SH", page_text(name))[1]
    return [plain(each) for each in re.findall(r"(?m)^\.SS (.*)\n\.TP", options)]


def plain(line):
    line = re.sub(r"\\f[BIR]", "", line)
    line = re.sub(r"\\\[u([0-9A-F]+)\]", lambda match: chr(int(match[1], 16)), line)
    return re.sub(r"\\(\(..|.)", lambda match: CHARACTERS[match[0]], line)


def squeezed(text):
    """Remove all white space."""
    return "".join(text.split())


@like_ours
def test_pages_are_current():
    """docs/man has the pages that the current help gives, and no others."""
    kept = {str(path.relative_to(FOLDER)): path.read_text(encoding="ascii") for path in PAGES}
    made = man.pages()
    assert sorted(made) == sorted(kept), "docs/man is not current: run make man"
    stale = [place for place, text in made.items() if kept[place] != text]
    assert not stale, "docs/man is not current: run make man"


def test_writing_removes_pages_of_lost_commands(tmp_path):
    (tmp_path / "man1").mkdir()
    (tmp_path / "man1" / "cnn-lost.1").write_text("")
    man.write(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("man?/*")) == sorted(path.name for path in PAGES)


@like_ours
@every_command
def test_page_has_all_of_help(name, run):
    """The description, every argument and option with its value, text and default, and every example."""
    usage, description, rest = re.fullmatch(
        r"Usage: (.*?)\n\n(.*?)\n\n((?:Arguments|Options):\n.*)", run(name, "--help").out, re.DOTALL
    ).groups()
    parameters, _, examples = rest.partition("\n  Examples:\n")
    page = sections(name)
    assert squeezed(description) == squeezed(page["DESCRIPTION"])
    listed = squeezed(page.get("ARGUMENTS", "") + page["OPTIONS"])
    headings = re.findall(r"(?m)^(\S.*):$", parameters)
    assert [each for each in headings if each not in ("Arguments", "Options")] == subsections(name)
    entries = re.split(r"\n+(?=  \S)", re.sub(r"(?m)^\S.*:\n", "", parameters))
    assert len(entries) > 5
    for entry in entries:
        assert squeezed(entry) in listed
    shown = squeezed(page["EXAMPLES"] + page["OPTIONS"])
    for block in examples.split("\n\n"):
        assert squeezed(block) in shown
    pieces = usage.replace("[OPTIONS]", "[OPTION]...").split()[1:]
    assert [word for word in page["SYNOPSIS"].split() if word in pieces] == pieces


#: Options that are different things in different commands.
SEVERAL_MEANINGS = {
    "--channels",  # of a layer; of a colour
    "--count",  # of each split; of each filter
    "--dtype",  # of activations; of stored features
    "--features",  # a file; an output to add
    "--filters",  # a number; ranges
    "--folds",  # a number; a table
    "--input",  # a size; a type
    "--keep",  # the originals of copies; a share of images
    "--labels",  # names of classes; features whose labels are checked
    "--method",  # of heat maps; of maps of features
    "--model",  # MODEL.onnx where only that is possible
    "--optimizer",  # of weights; of the pixels of an image
    "--output",  # files of several types, folders; an output of a graph
    "--plot",  # curves as text; a file with the figure of a learning curve
    "--pool",  # a window; the pooling of features
    "--sets",  # a coverage to promise; whether to print them
    "--val",  # images; features
}


def test_an_option_has_the_same_metavar_in_every_command():
    """Or one with the same first alternative, such as PIXELS and PIXELS|HxW."""
    found = {}
    for name in COMMANDS:
        for line in re.findall(r"(?m)^\.TP\n(\\fB\\-.*)$", page_text(name)):
            flags, value = re.fullmatch(r"(-[\w-]+(?:(?:, | / )-[\w-]+)*) ?(.*)", plain(line)).groups()
            first = re.split(", | / ", flags)[-1 if flags[1] != "-" else 0]
            found.setdefault(first, set()).add(value.partition("|")[0])
    assert {flag for flag, values in found.items() if len(values) > 1} == SEVERAL_MEANINGS


@every_command
def test_page_has_every_section(name):
    """In the order of man-pages(7); the text of NAME is one line for whatis."""
    order = ["NAME", "SYNOPSIS", "DESCRIPTION", "ARGUMENTS", "OPTIONS", "EXAMPLES", "FILES", "ENVIRONMENT"]
    order += ["EXIT STATUS", "SEE ALSO"]
    found = list(sections(name))
    assert found == [section for section in order if section in found]
    assert set(order) - set(found) <= {"ARGUMENTS", "FILES"}
    assert re.search(rf"\.SH NAME\n{name} \\- \S.*[^.]\n\.SH".replace("-", r"\\?-"), page_text(name))


def page_text(name):
    return (FOLDER / "man1" / f"{name}.1").read_text(encoding="ascii")


@every_command
def test_exit_statuses_are_those_of_the_command(name):
    """4 where the command has a gate, 3 where it skips images."""
    tree = ast.parse((ROOT / "tools" / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert (name in man.GATED) == bool(called & {"cli.gate", "cli.gated"})
    statuses = sections(name)["EXIT STATUS"]
    assert (" 4 A condition" in statuses) == (name in man.GATED)
    assert (" 3 Success, but" in statuses) == ("--errors" in sections(name)["OPTIONS"])


def test_every_command_is_in_the_overview():
    assert sorted(name for names in man.STAGES.values() for name in names) == COMMANDS
    text = (FOLDER / "man7" / "cnnkit.7").read_text(encoding="ascii").splitlines()
    assert set(COMMANDS) <= {plain(line).removesuffix("(1)") for line in text if line.endswith("(1)")}


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (r"a\tb", r"a\etb"),
        ("--fail-under", r"\-\-fail\-under"),
        ("'^x~`\"", r"\(aq\(hax\(ti\(ga\(dq"),
        ("image's", r"image\(aqs"),
        ("3 × é", r"3 \[u00D7] \[u00E9]"),
    ],
)
def test_literal_text_is_escaped(text, roff):
    assert man._literal(text) == roff
    assert plain(roff) == text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Of .tsv files. See cnn-eval, --json.", ["Of .tsv files.", r"See \fBcnn\-eval\fR, \fB\-\-json\fR."]),
        ("a well-known word, K-1, a/b-c", [r"a well-known word, K\-1, a/b\-c"]),
        (".npy first", [r"\&.npy first"]),
        ("'quoted' first", [r"\&\(aqquoted\(aq first"]),
        ("the model's (-m)", [r"the model's (\fB\-m\fR)"]),
        ("word " * 30, [("word " * 15).strip()] * 2),
    ],
)
def test_prose_is_escaped_and_wrapped(text, lines):
    assert list(man._wrapped(text)) == lines


@needs("mandoc")
@every_page
def test_mandoc_has_no_warnings(page):
    """Except about the date, which pages lack on purpose."""
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


@needs("groff")
@every_page
def test_groff_has_no_warnings(page):
    done = subprocess.run(["groff", "-ww", "-man", "-T", "utf8", "-z", page], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs("man")
def test_man_finds_the_page_of_a_program_on_path(tmp_path):
    """For bin on PATH man searches ../share/man, so a virtual environment needs no MANPATH. Examples can be copied."""
    shutil.copytree(FOLDER, tmp_path / "share" / "man")
    (tmp_path / "bin").mkdir()
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "200", "HOME": str(tmp_path)}
    found = subprocess.run(["man", "-w", "cnn-split"], env=env, capture_output=True, text=True)
    assert found.stdout.strip() == str(tmp_path / "share" / "man" / "man1" / "cnn-split.1"), found.stderr
    shown = subprocess.run(["man", "cnn-split"], env=env, capture_output=True, text=True).stdout
    assert "cnn-split - " in shown
    examples = textwrap.dedent(shown[shown.index("EXAMPLES\n") :].partition("\n\n")[0].partition("\n")[2])
    line = r"cnn\-split scans/ \-\-ratio 0.8,0.2 \-\-group \(aqpatient\-[0\-9]+\(aq"
    assert plain(next(each for each in page_text("cnn-split").splitlines() if each.startswith(line))) in examples


@pytest.mark.slow
def test_the_wheel_installs_every_page(tmp_path):
    """Below share/man of the environment."""
    source, dist = tmp_path / "source", tmp_path / "dist"
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "tests", "quickstart", "shared")
    shutil.copytree(ROOT, source, ignore=left_out)
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", dist, source]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True, text=True)
    (wheel,) = dist.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = [name.partition(".data/data/share/man/")[2] for name in archive.namelist() if "/share/man/" in name]
    assert sorted(names) == [str(page.relative_to(FOLDER)) for page in PAGES]


@pytest.mark.parametrize("markup", [None, "rich"])
def test_help_is_the_same_a_second_time(markup):
    """It leaves the texts of the command and its options as they are."""
    (entry,) = (each for each in distribution("cnnkit").entry_points if each.name == "cnn-dims")
    command = entry.load().parser()
    command.rich_markup_mode = markup
    command.help += " [photos] cnn-dims"
    texts = [command.help, command.epilog, *(each.help for each in command.params if hasattr(each, "help"))]
    context = command.make_context(entry.name, [], resilient_parsing=True)
    first, second = command.get_help(context), command.get_help(context)
    assert first == second
    assert texts == [command.help, command.epilog, *(each.help for each in command.params if hasattr(each, "help"))]
