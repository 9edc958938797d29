"""The commands in README.md and docs/ print what the pages show, and their links lead somewhere.

A page shows commands in blocks marked `console`. Each page runs in a folder of its own that holds what `make quickstart` writes.
A comment before a block changes that:

    <!-- photos -->      runs in another folder, with photographs and pretrained weights; on docs/ pages one that has what the tutorial made
    <!-- status 2 -->    every command of the block ends with this exit status; what it prints on stderr is shown too

`python tests/test_docs.py [PAGE ...]` runs the commands, writes their outputs into the pages, and images that they draw to docs/images.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("CNNKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
INSTALLED = Path(sys.executable).parent
BLOCK = re.compile(r"(?:<!-- (?P<marks>[^>\n]*) -->\n)?```console\n(?P<body>.*?)```", re.DOTALL)
#: Columns whose figures belong to the machine, not to the command.
MACHINE = {"seconds", "per_second", "max_difference"}
FIGURE = r"-?\d+\.\d+(?:e-?\d+)?"
README, TUTORIAL = "README.md", "docs/tutorial.md"


def pages():
    """List the pages, the tutorial before those that use what it made."""
    first = [ROOT / README, ROOT / TUTORIAL]
    return first + [each for each in sorted((ROOT / "docs").rglob("*.md")) if each not in first]


def folder_of(page, photos):
    """Name the folder in which the commands of a page run."""
    return (TUTORIAL if photos and page != README else page), photos


@dataclass(frozen=True)
class Shown:
    """One command of a page, with the output below it."""

    page: str
    command: str
    output: str
    photos: bool
    status: int


def marks_of(match):
    """Read the comment before a block: whether it needs photographs, and the exit status."""
    marks = [mark.strip() for mark in (match["marks"] or "").split(",")]
    status = next((int(mark.split()[1]) for mark in marks if mark.startswith("status ")), 0)
    return "photos" in marks, status


def commands_of(body):
    """Split a block into its commands and their outputs."""
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def shown():
    """List the commands of all pages, in order."""
    return [
        Shown(str(page.relative_to(ROOT)), command, output, *marks_of(match))
        for page in pages()
        for match in BLOCK.finditer(page.read_text(encoding="utf-8"))
        for command, output in commands_of(match["body"])
    ]


def perform(command, folder, *, status=0, commands=INSTALLED):
    """Run one line of shell in a folder, and return its output.

    Every stage of a pipe must succeed, except those that `head` cuts short. Where a status is expected, stderr is part of the output.
    """
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    checked = "" if status else "; for s in ${PIPESTATUS[@]}; do [ $s = 0 ] || [ $s = 141 ] || exit $s; done"
    done = subprocess.run(
        ["bash", "-c", command + checked],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if status else subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == status, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


def prepare_photos(folder):
    """Put photographs and weights where the pages have them."""
    for name, source in {"photos": "dogs-vs-cats", "dogs-vs-cats": "dogs-vs-cats", "cifar10": "cifar10"}.items():
        (folder / name).symlink_to(SHARED / source)
    (folder / "mobilenet_v2.pth").symlink_to(SHARED / "weights" / "mobilenet_v2.pth")
    return folder


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, request, commands):
    """Run the command of a number, after those before it in the same folder: they make what it reads."""
    folders, outputs = {}, {}

    def folder(entry):
        key = folder_of(entry.page, entry.photos)
        if key not in folders:
            place = folders[key] = tmp_path_factory.mktemp("page")
            if entry.photos:
                prepare_photos(place)
            else:
                made = request.getfixturevalue("quickstart")
                shutil.copytree(made, place / "quickstart", copy_function=os.link)
        return folders[key]

    def run(number):
        entry = ENTRIES[number]
        for other in range(number + 1):
            each = ENTRIES[other]
            shares = folder_of(each.page, each.photos) == folder_of(entry.page, entry.photos)
            if shares and other not in outputs:
                outputs[other] = perform(each.command, folder(each), status=each.status, commands=commands)
        return outputs[number]

    return run


ENTRIES = shown()


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    range(len(ENTRIES)),
    ids=[f"{entry.page}: {entry.command[:60]}" for entry in ENTRIES],
)
def test_command_prints_what_the_page_shows(number, outcome):
    """Words are equal; figures are close; those of the machine are not compared."""
    entry = ENTRIES[number]
    if entry.photos and not SHARED.is_dir():
        pytest.skip(f"no photographs at {SHARED}")
    text = outcome(number)
    found, wanted = text.splitlines(), entry.output.splitlines()
    assert len(found) == len(wanted), text
    columns = wanted[0].split("\t") if wanted and "\t" in wanted[0] else []
    for found_line, wanted_line in zip(found, wanted, strict=True):
        assert_like(found_line, wanted_line, columns)


def assert_like(found, wanted, columns):
    """Compare two lines field by field."""
    found_fields, wanted_fields = found.split("\t"), wanted.split("\t")
    assert len(found_fields) == len(wanted_fields)
    for index, (one, other) in enumerate(zip(found_fields, wanted_fields, strict=True)):
        if one == other:
            continue
        if index < len(columns) and columns[index] in MACHINE:
            assert float(one) >= 0
        elif re.fullmatch(FIGURE, other):
            assert are_close(one, other)
        elif index < len(columns) and columns[index] in ("best_epoch", "epochs", "train_accuracy"):
            assert re.fullmatch(r"[\d.]+", one)
        elif not columns or other.startswith("{"):  # a sentence, or figures in a row, or JSON
            assert re.sub(FIGURE, "#", one) == re.sub(FIGURE, "#", other)
            assert all(map(are_close, re.findall(FIGURE, one), re.findall(FIGURE, other)))
        else:
            assert one == other


def are_close(found, wanted):
    """Compare two figures: other processors round otherwise, and a training amplifies it.

    Values from 0.01 to 1 may be shares, of which a relative tolerance would allow 5 points: they get an absolute one.
    """
    size = abs(float(wanted))
    tolerance = 0.05 * size if size > 1 else 0.015 if size >= 0.01 else max(0.3 * size, 0.002)
    return abs(float(found) - float(wanted)) <= tolerance + 1e-9


@pytest.mark.parametrize(
    ("found", "wanted", "close"),
    [
        ("12.40", "12.00", True),
        ("12.70", "12.00", False),
        ("0.988", "0.980", True),
        ("0.94", "0.988", False),
        ("1.000", "0.98", False),
        ("0.001", "0.0025", True),
        ("0.005", "0.001", False),
        ("1.2e-05", "9.0e-07", True),
        ("-0.43", "0.43", False),
        ("loss 0.50 after 3 epochs", "loss 0.51 after 3 epochs", True),
        ("loss 0.50 after 3 epochs", "loss 0.58 after 3 epochs", False),
        ("loss 0.50 after 3 epochs", "loss 0.50 after 4 epochs", False),
    ],
)
def test_figures_are_compared_by_their_size(found, wanted, close):
    with contextlib.nullcontext() if close else pytest.raises(AssertionError):
        assert_like(found, wanted, [])


PROGRAMS = sorted(entry.name for entry in entry_points(group="console_scripts") if entry.name.startswith("cnn-"))


def anchors_of(text):
    """List the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(path):
    """List the links of a page to files of the repository: the link, the file, the anchor."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    local = [link for link in links if not link.startswith(("https://", "mailto:"))]
    parts = [(link, *link.partition("#")[::2]) for link in local]
    return [(link, (path.parent / target).resolve() if target else path, anchor) for link, target, anchor in parts]


OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "examples/README.md")]


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in [*pages(), *OTHERS]])
def test_links_lead_somewhere(page):
    """Files that a page links exist in the repository, and so do the headings in them."""
    for link, linked, anchor in links_of(ROOT / page):
        assert linked.exists(), link
        assert linked.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors_of(linked.read_text(encoding="utf-8")), link


def test_every_page_is_reachable_from_the_readme():
    """By links from page to page; a folder shows its README.md."""
    found, left = set(), {ROOT / README}
    while left:
        page = left.pop()
        found.add(page)
        linked = {place / README if place.is_dir() else place for _, place, _ in links_of(page)}
        left |= {place for place in linked if place.suffix == ".md" and place.is_file()} - found
    assert {*pages(), *OTHERS} - found == set()


def test_every_image_is_on_a_page():
    shown = {linked for page in [*pages(), *OTHERS] for _, linked, _ in links_of(page)}
    assert set((ROOT / "docs" / "images").iterdir()) - shown == set()


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_has_a_page_that_runs_it(program):
    """The page stands in docs/commands, is linked in README.md, and shows the command with its output."""
    page = f"docs/commands/{program}.md"
    assert (ROOT / page).is_file()
    assert f"({page})" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert any(entry.page == page and program in shlex.split(entry.command) for entry in ENTRIES)


def test_readme_is_short():
    """A person in a hurry reads it to its end."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def overwrite(names):
    """Run the commands of the named pages, or of all, and write their output into the pages."""
    wanted = {str(Path(name).resolve().relative_to(ROOT)) for name in names}
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["CNNKIT_CACHE"] = str(Path(temporary, "cache"))
        folders = {}

        def folder(key):
            if key not in folders:
                place = folders[key] = Path(temporary, str(len(folders)))
                place.mkdir()
                if key == "digits":
                    road = ROOT / "examples" / "digits" / "Makefile"
                    made = subprocess.run(["make", "-sf", road, "OUT=quickstart", f"BIN={INSTALLED}/"], cwd=place)
                    assert not made.returncode
                elif key[1]:
                    prepare_photos(place)
                else:
                    made = folder("digits") / "quickstart"
                    shutil.copytree(made, place / "quickstart", copy_function=os.link)
            return folders[key]

        for page in pages():
            name = str(page.relative_to(ROOT))

            def replaced(match, name=name):
                photos, status = marks_of(match)
                chosen = not wanted or name in wanted or (photos and name == TUTORIAL)
                if not chosen or (photos and not SHARED.is_dir()):
                    return match[0]
                lines = []
                for command, _ in commands_of(match["body"]):
                    try:
                        output = perform(command, folder(folder_of(name, photos)), status=status)
                        assert temporary not in output, (command, "prints a path of this machine")
                    except AssertionError as error:
                        failed.append(f"{name}: {error}")
                        return match[0]
                    lines.append(f"$ {command}\n{output}")
                return match[0][: match.start("body") - match.start()] + "".join(lines) + "```"

            text = page.read_text(encoding="utf-8")
            written = BLOCK.sub(replaced, text)
            for image in re.findall(r'src="([^"]*\bimages/[^"]+)"', text):
                own = (folders[key] for photos in (False, True) if (key := folder_of(name, photos)) in folders)
                drawn = [place / Path(image).name for place in own if (place / Path(image).name).is_file()]
                if (
                    drawn
                ):  # the first: the folder of photographs is that of the tutorial, which draws others of the same name
                    shutil.copy(drawn[0], page.parent / image)
            if written != text and (not wanted or name in wanted):
                page.write_text(written, encoding="utf-8")
                print(name)  # noqa: T201 - the script's report
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    overwrite(sys.argv[1:])
