"""The README shows commands with their output: each one is run, and prints what stands there.

`python tests/test_readme.py` runs them and writes the outputs anew. Blocks after `<!-- photos -->` need the photographs;
the others run in what `make quickstart` makes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SHARED = Path(os.environ.get("CNNKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
INSTALLED = Path(sys.executable).parent
BLOCK = re.compile(r"(<!-- photos -->\n)?```console\n(.*?)```", re.DOTALL)
#: Columns whose figures belong to the machine, not to the command.
MACHINE = {"seconds", "per_second", "max_difference"}


@dataclass(frozen=True)
class Shown:
    """One command of the README, with the output that stands below it."""

    command: str
    output: str
    photos: bool


def shown():
    """List the commands in order."""
    commands = []
    for photos, body in BLOCK.findall(README.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            commands.append(Shown(command, output, bool(photos)))
    return commands


def perform(command, folder, *, commands=INSTALLED):
    """Run one line of shell in a folder; every stage of a pipe must succeed, but for those that `head` cuts short."""
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    line = f"{command}; for s in ${{PIPESTATUS[@]}}; do [ $s = 0 ] || [ $s = 141 ] || exit $s; done"
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
    )


def prepare_quickstart(folder):
    """Make what `make quickstart` makes."""
    road = ROOT / "examples" / "digits" / "Makefile"
    subprocess.run(
        ["make", "-f", road, "OUT=quickstart", f"BIN={INSTALLED}/"], cwd=folder, check=True, capture_output=True
    )
    return folder


def prepare_photos(folder):
    """Lay photographs and weights where the README has them."""
    (folder / "dogs-vs-cats").symlink_to(SHARED / "dogs-vs-cats")
    (folder / "cifar10").symlink_to(SHARED / "cifar10")
    (folder / "mobilenet_v2.pth").symlink_to(SHARED / "weights" / "mobilenet_v2.pth")
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory, request, commands):
    """Give what the entry of a number did. Those above it are run first, in the same folder: they make what it reads."""
    folders, outcomes = {}, {}

    def folder(photos):
        if photos not in folders:
            place = folders[photos] = tmp_path_factory.mktemp("photos" if photos else "readme")
            if photos:
                prepare_photos(place)
            else:
                shutil.copytree(request.getfixturevalue("quickstart"), place / "quickstart")
        return folders[photos]

    def outcome(number):
        photos = ENTRIES[number].photos
        for each in [other for other in range(number + 1) if ENTRIES[other].photos == photos and other not in outcomes]:
            outcomes[each] = perform(ENTRIES[each].command, folder(photos), commands=commands)
        return outcomes[number]

    return outcome


ENTRIES = shown()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(ENTRIES)), ids=[entry.command[:60] for entry in ENTRIES])
def test_a_command_prints_what_the_readme_shows(number, done):
    """The command succeeds, and its output is the README's: words exactly, figures closely, those of the machine not at all."""
    entry = ENTRIES[number]
    if entry.photos and not SHARED.is_dir():
        pytest.skip(f"no photographs at {SHARED}")
    done = done(number)
    assert done.returncode == 0, done.stderr
    found, wanted = done.stdout.splitlines(), entry.output.splitlines()
    assert len(found) == len(wanted), done.stdout
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
        elif re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", other):
            # Other processors round otherwise, and a training amplifies it
            assert float(one) == pytest.approx(float(other), abs=0.01)
        elif index < len(columns) and columns[index] in ("best_epoch", "epochs", "train_accuracy"):
            assert re.fullmatch(r"[\d.]+", one)
        elif other.startswith("{"):
            assert re.sub(r"\d\.\d+(e-\d+)?", "#", one) == re.sub(r"\d\.\d+(e-\d+)?", "#", other)
        else:
            assert one == other


def test_every_command_of_the_project_stands_in_the_readme():
    """Every installed command has its heading and is run by the README's examples."""
    from importlib.metadata import distribution

    text = README.read_text(encoding="utf-8")
    names = [entry.name for entry in distribution("cnnkit").entry_points]
    for name in names:
        assert f"### {name}\n" in text
        assert any(name in entry.command for entry in shown())


def overwrite():
    """Run every command and put its output into the README."""
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["CNNKIT_CACHE"] = str(Path(temporary, "cache"))
        made = {}

        def outcome(photos, body):
            lines = []
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command = part.partition("\n")[0]
                if photos not in made:
                    place = Path(temporary, "photos" if photos else "readme")
                    place.mkdir()
                    made[photos] = (prepare_photos if photos else prepare_quickstart)(place)
                done = perform(command, made[photos])
                assert done.returncode == 0, (command, done.stderr)
                assert temporary not in done.stdout, (command, "prints a path of this machine")
                lines.append(f"$ {command}\n{done.stdout}")
            return "".join(lines)

        def replaced(match):
            photos = bool(match[1])
            if photos and not SHARED.is_dir():
                return match[0]
            return f"{match[1] or ''}```console\n{outcome(photos, match[2])}```"

        README.write_text(BLOCK.sub(replaced, README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    overwrite()
