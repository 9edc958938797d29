"""Rules that import-linter does not check: which modules open files and print, and what a command imports before it works.

The rules for imports are in pyproject.toml, [tool.importlinter]."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "cnnkit").rglob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))
ENTRY_POINTS = [entry for entry in distribution("cnnkit").entry_points if entry.group == "console_scripts"]

HEAVY = {
    "torch",
    "torchvision",
    "onnxruntime",
    "onnx",
    "numpy",
    "PIL",
    "matplotlib",
    "sklearn",
    "scipy",
    "timm",
    "imagehash",
}


def imported(path):
    """List all imports of a file as (line, dotted name); `from a import b` is a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def calls(path):
    """List all calls in a file, as (line, dotted name)."""
    return [
        (node.lineno, ast.unparse(node.func))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


#: Functions that open a file, by the last part of their name.
OPENING = {"open", "read_text", "write_text", "read_bytes", "write_bytes", "writing"}
#: Modules outside of `formats` that open files, and which: none of them is an artefact of cnnkit.
OPENERS = {
    "cnnkit.engine.quantize": "temporary files for onnxruntime's quantizer, which takes names of files",
    "cnnkit.cli.command": "the null device",
    "cnnkit.cli.candidates": "the source of torchvision and timm, which names their networks",
    "cnnkit.cli.completion": "what a shell reads when it starts",
    "cnnkit.cli.man": "the manual pages, for docs/man",
    "cnnkit.cli.streams": "the null device",
    "tools.__init__": "the null device",
    "cnnkit.files": "any file that is read, once it is known to be one",
    "cnnkit.tar_archives": "the headers of a tar archive",
    "cnnkit.report.style": "the style sheet of reports, a file of the package",
    "cnnkit.engine.versions": "what installed packages say of themselves",
    "cnnkit.data.decode": "an image",
    "cnnkit.data.tree": "an image, whose bytes are hashed; a folder that is to reach the disk",
    "cnnkit.cli.output_file": "the tables of -o, through formats.atomic",
    "cnnkit.data.memory": "the limits of control groups, as Linux shows them",
}
#: Functions of other libraries that read and write files.
READERS = {
    "json.load",
    "json.dump",
    "np.load",
    "np.save",
    "np.savez",
    "np.fromfile",
    "onnx.load",
    "onnx.save",
    "torch.load",
    "torch.save",
}


#: The program of worker processes, which may end at once.
WORKER = ROOT / "cnnkit" / "data" / "worker.py"


#: Modules that pickle something that is in no file.
PICKLING = {
    "cnnkit.data.worker": "messages between processes of one command",
    "cnnkit.data.workers": "messages between processes of one command",
    "cnnkit.engine.exporter": "attributes of a module, to compare their digests",
}


def test_only_formats_opens_artefacts():
    """Headers, manifests, models, features and histories are read and written in `formats`; other modules are on a list."""
    openers = set()
    for path in LIBRARY + TOOLS:
        if path.parent == ROOT / "cnnkit" / "formats":
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert not {name for _, name in imported(path)} & {"csv", "tomllib"}, path
        assert module in PICKLING or "pickle" not in {name for _, name in imported(path)}, path
        for line, name in calls(path):
            assert name not in READERS, f"{path}:{line}: calls {name}"
            if name.rpartition(".")[2] in OPENING:
                openers.add(module)
                assert module in OPENERS, f"{path}:{line}: calls {name}; artefacts are opened in cnnkit/formats alone"
    assert openers == set(OPENERS), "some modules open no file any more: remove them from the list"


def test_list_of_modules_without_typer_is_complete():
    """import-linter has no "everything except cli"; a new file or package must be added to its list."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (listed,) = (
        each["source_modules"]
        for each in contracts
        if "typer" in each.get("forbidden_modules", []) and each["source_modules"] != ["cnnkit_tools"]
    )
    library = {f"cnnkit.{path.stem}" for path in (ROOT / "cnnkit").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(listed) == sorted(library - {"cnnkit.__init__", "cnnkit.__pycache__", "cnnkit.cli"})


@pytest.mark.parametrize("path", LIBRARY + TOOLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_cli_prints_and_exits(path):
    """Only cli uses print, sys.exit, `sys.stdout` and `sys.argv`."""
    if path.parent == ROOT / "cnnkit" / "cli" or path == ROOT / "tools" / "__init__.py":
        return  # this one handles closed streams and Ctrl-C before cli is imported
    ending = {"exit", "quit", "sys.exit", *(() if path == WORKER else ("os._exit",))}
    for line, name in calls(path):
        assert name not in {"print", "input", *ending}, f"{path}:{line}: calls {name}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("sys.stdout", "sys.argv"), (
                f"{path}:{node.lineno}: uses {ast.unparse(node)}"
            )
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert "SystemExit" not in ast.unparse(node.exc), f"{path}:{node.lineno}: exits"


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_tool_is_one_command(path):
    """One file, one decorated `main`, one entry point of the same name."""
    if path.name == "__init__.py":
        return
    functions = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    commands = [
        node.name
        for node in functions
        if any(ast.unparse(each) in ("cli.command", "cli.image_command") for each in node.decorator_list)
    ]
    assert commands == ["main"]
    name = path.stem.replace("_", "-")
    assert [entry.value for entry in ENTRY_POINTS if entry.name == name] == [f"cnnkit_tools.{path.stem}:main"]


@pytest.mark.parametrize("entry", ENTRY_POINTS, ids=lambda entry: entry.name)
def test_help_imports_nothing_heavy(entry):
    """Help, version and usage errors of a command import neither torch nor numpy, nor rich in a pipe."""
    program = (
        f"import sys, {entry.module} as tool\n"
        "for words in [], ['--help'], ['--version'], ['--no-such-option']:\n"
        "    try:\n"
        "        if words: tool.main(words)\n"
        "    except SystemExit: pass\n"
        "    print('loaded', *sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = [set(line.split()) for line in done.stderr.splitlines() if line.startswith("loaded ")]
    assert len(loaded) == 4
    for each in loaded:
        assert {"typer", "cnnkit"} <= each
        assert not each & (HEAVY | {"rich"})
    assert "Usage: " in done.stdout
    assert f"cnnkit {version('cnnkit')}" in done.stdout
    assert "no such option: --no-such-option" in done.stderr


#: Modules that commands use, in one process each, with what they must not import before it is used.
ROADS = {
    "inference": (
        "import cnnkit.infer.predict, cnnkit.infer.extract, cnnkit.infer.feature_input",
        {"torch", "torchvision", "matplotlib", "sklearn", "scipy", "timm", "imagehash", "pydantic", "rich"},
    ),
    "training": (
        "import cnnkit.train.head, cnnkit.train.scratch, cnnkit.train.finetune, cnnkit.nets.layer_graph\n"
        "import torch\n"
        "from cnnkit.nets import backbones\n"
        "network, _, _ = backbones.by_notation('conv 2 k3, gap', size=8)\n"
        "network(torch.zeros(1, 3, 8, 8)).sum().backward()",
        {"torchvision", "torch._dynamo", "sympy", "matplotlib", "sklearn", "scipy", "timm", "imagehash", "pydantic"},
    ),
    "networks with a name": (
        "from cnnkit.choices import Pool\n"
        "from cnnkit.nets import backbones\n"
        "backbones.pretrained('squeezenet1_1', weights='none', layer='features.5', pool=Pool.AVG, seed=0)\n"
        "import cnnkit.formats\n"
        "assert 'torchvision.models' in sys.modules",
        {"torch._dynamo", "sympy", "onnx_ir", "matplotlib", "sklearn", "scipy", "timm", "imagehash", "pydantic"},
    ),
}


@pytest.mark.parametrize("road", ROADS)
def test_nothing_is_imported_that_is_not_used(road):
    """Training of networks by notation and of heads without torchvision; networks with a name without torch's compiler, which
    torchvision imports; inference without torch."""
    program, unused = ROADS[road]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert loaded >= {"cnnkit.formats", "numpy"}
    assert not loaded & unused
