"""Commands that README, docs, help and messages name are accepted by the parsers of these commands.

Commands of console blocks, indented lines and examples in help are complete. Those in code spans and messages may lack required arguments,
and the value of their last option: `cnn-split --folds`. Nothing is run: tests/test_docs.py runs console blocks.
"""

import ast
import re
import shlex
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer._click.exceptions import UsageError

ROOT = Path(__file__).parents[1]
PROGRAMS = {entry.name: entry for entry in entry_points(group="console_scripts") if entry.name.startswith("cnn-")}
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *(ROOT / "docs").rglob("*.md")]
)
SOURCES = sorted([*(ROOT / "cnnkit").rglob("*.py"), *(ROOT / "tools").glob("*.py")])
MENTION = re.compile(rf"(?<![\w/-])(?:{'|'.join(sorted(PROGRAMS, key=len, reverse=True))})(?![\w.-])")
#: Variables of the Makefile that docs/makefile.md explains.
VARIABLES = dict(
    re.findall(r"^(\w+) *[:?]?= *(.*)$", (ROOT / "examples" / "photos.mk").read_text(encoding="utf-8"), re.MULTILINE)
)
#: In place of what a message fills in, a shell or make expands, or a person types.
FILLED_IN = "X"


@cache
def parser_of(program, complete):
    """Return the parser of a command; without required parameters if a text need not name them."""
    parser = PROGRAMS[program].load().parser()
    for parameter in parser.params:
        parameter.required &= complete
    return parser


def takes_value(program, word):
    """Return whether a word is an option whose value is the next word."""
    return any(word in each.opts and not each.is_flag for each in parser_of(program, False).params if word[0] == "-")


def fault(program, words, *, complete):
    """Return why a command refuses words, or None."""
    if not complete and words and takes_value(program, words[-1]):
        words = words[:-1]
    parser = parser_of(program, complete)
    at_once = {word for each in parser.params if each.callback is not None and each.is_flag for word in each.opts}
    if (at_once | {"--help", "-h"}).intersection(
        words
    ):  # they print something, or install completion, whatever else is given
        return None
    try:
        parser.make_context(program, [*words])
    except UsageError as error:
        return f"{shlex.join([program, *words])}: {error.format_message()}"
    return None


def faults(line, *, complete):
    """List what commands refuse in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    stages = [[]]
    redirected = False
    for word in lexer:
        if re.fullmatch(r"[<>]+&?", word):
            redirected = True
        elif re.fullmatch(r"[|&;()]+", word):
            stages.append([])
        elif not redirected:
            stages[-1].append(word)
        else:
            redirected = False
    found = []
    for stage in stages:
        place = next((place for place, word in enumerate(stage) if word in PROGRAMS), None)
        if place is not None and stage[0] != "man":
            found.append(fault(stage[place], stage[place + 1 :], complete=complete))
    return [each for each in found if each]


def commands_of_page(text):
    """List the lines of shell on a page, and whether they are complete."""
    text = text.replace("\\\n", " ")
    refused = re.findall(r"^<!-- [^>]*status 2[^>]* -->\n```console\n.*?```", text, re.MULTILINE | re.DOTALL)
    for block in refused:
        text = text.replace(block, "")

    def expanded(line):
        while (variable := re.search(r"\$\((\w+)\)", line)) is not None:
            line = line.replace(variable[0], VARIABLES.get(variable[1], FILLED_IN))
        return re.sub(r"\$[@<*?]|<\w+>", FILLED_IN, line)

    lines = re.findall(r"^(?:\$ |    |\t)(.*\bcnn-.*)$", text, re.MULTILINE)
    spans = re.findall(r"`(cnn-[^`\n]+)`", text)
    return [(expanded(line), True) for line in lines if "──" not in line] + [(expanded(span), False) for span in spans]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_a_page(page):
    commands = commands_of_page(page.read_text(encoding="utf-8"))
    assert [each for line, complete in commands for each in faults(line, complete=complete)] == []


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_examples_in_help(program):
    examples = parser_of(program, True).epilog.split("\n\n")[0].replace("\\\n", " ")
    assert program in examples
    assert [each for line in examples.splitlines() for each in faults(line.strip(), complete=True)] == []


def texts_of(source):
    """Yield the strings of a program except docstrings, with X where a value is filled in."""
    inner = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr):
            inner.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            inner.update(map(id, node.values))
            yield "".join(each.value if isinstance(each, ast.Constant) else FILLED_IN for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


@cache
def all_texts():
    """List the strings of all programs."""
    return [text for path in SOURCES for text in texts_of(path.read_text(encoding="utf-8"))]


def commands_of_text(text):
    """Yield the commands in a sentence: options, their values, and words that are no words of the sentence."""
    for match in MENTION.finditer(text):
        command = [match[0]]
        for word in text[match.end() :].split():
            bare = word.rstrip(".,;:)")
            value = takes_value(command[0], command[-1]) if len(command) > 1 else False
            if not (value or re.search(r"^-|^[A-Z]+$|[X.]", bare)):
                break
            command.append(bare)
            if bare != word:
                break
        if len(command) > 1 and text[match.end()] == " ":
            yield command


def test_commands_in_messages():
    """Remedies in errors, notices and advice, and options of other commands in help."""
    commands = {tuple(command) for text in all_texts() for command in commands_of_text(text)}
    assert ("cnn-export", "--head-only") in commands
    found = [fault(program, words, complete=False) for program, *words in sorted(commands)]
    assert [each for each in found if each] == []


#: Options that no parser lists, or that belong to pip and to fish, and names in old checkpoints.
OTHER_OPTIONS = {
    "--help",
    "--field-name",
    "--upgrade",
    "--no-deps",
    "--build-arg",
    "--no-files",
    "--arguments",
    "--command",
    "--from",
    "--pictures",
    "--array",
    "--no-python",
    "--sshlogin",
    "--gpus",
    "--share",
}


def options_in(text):
    """List the options in a text: whole words, without those that are filled in."""
    return {word for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", text) if not word.endswith(FILLED_IN)}


def test_options_named_alone_exist():
    """In code spans of pages, help and messages: a command has each of them."""
    spans = [span for page in PAGES for span in re.findall(r"`(--[^`\n]+)`", page.read_text(encoding="utf-8"))]
    named = {option for text in [*spans, *all_texts()] for option in options_in(text)}
    known = {
        word
        for program in PROGRAMS
        for each in parser_of(program, False).params
        for word in (*each.opts, *each.secondary_opts)
    }
    assert len(named) > 100
    assert named - known - OTHER_OPTIONS == set()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cnn-split photos --ration 1,2", "No such option"),
        ("cnn-train-head a.npy b.npy", "unexpected extra argument"),
        ("cat x | cnn-cam -m x - --box y > z", "valid number"),
    ],
)
def test_faults_are_found(line, message):
    (found,) = faults(line, complete=False)
    assert message in found


def test_fragments_need_not_be_complete():
    assert faults("cnn-split --ratio", complete=False) == []
    assert faults("cnn-split --ratio", complete=True) != []
