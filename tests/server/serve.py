"""Run installed commands in forks of one process that has already imported torch and cnnkit, which saves seconds per start.

`serve.py FOLDER` listens at FOLDER/socket, prints a line when it is ready, and ends with its standard input. client.py replaces every
command: it sends the command line, environment, folder, limits and streams, forwards signals, and ends as the fork ends.
Other tests start the commands themselves.
"""

import array
import atexit
import contextlib
import functools
import gc
import importlib
import marshal
import multiprocessing.util
import os
import pkgutil
import resource
import selectors
import signal
import socket
import sys
import warnings
import weakref
from importlib.metadata import entry_points

#: Modules that are slow to import and start no thread.
HEAVY = [
    "PIL.Image",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "numpy",
    "onnx",
    "onnxscript",
    "rich.progress",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.linear_model",
    "torch._dynamo",
    "torch.export",
    "torch.onnx",
    "torchvision",
    "typer.main",
]


#: What cnnkit sets in the environment when it is imported, unless the user has.
SETTINGS = {}

#: The entry points of the commands by name: looking for one reads a file of every installed package.
COMMANDS = {}


def load_everything():
    """Import slow modules, and those of cnnkit, which read nothing of the environment when they are imported; export a network."""
    for name in HEAVY:
        importlib.import_module(name)
    before = dict(os.environ)
    import cnnkit

    SETTINGS.update({name: value for name, value in os.environ.items() if name not in before})
    for each in entry_points(group="console_scripts"):
        if each.module.startswith("cnnkit_tools."):
            COMMANDS[each.name] = each.load()
    for each in pkgutil.walk_packages(cnnkit.__path__, "cnnkit."):
        importlib.import_module(each.name)
    with contextlib.suppress(ImportError, AttributeError):  # other versions of torch: exports are slower then
        warm_exporter()
    forget_exit_functions()
    gc.collect()
    gc.freeze()  # otherwise the first collection in every fork would copy all pages
    gc.set_threshold(10_000, 20, 20)  # as in the process of the tests: a quarter of the time of an export


def warm_exporter():
    """Export a network: torch's exporter imports and prepares much on its first use, and again and again its table of operators."""
    import torch
    import tqdm
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    tqdm.tqdm.monitor_interval = 0  # it would start a thread
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten())
        torch.onnx.export(
            torch.nn.Sequential(*layers, torch.nn.Linear(4, 2)).eval(),
            (torch.zeros(2, 3, 3, 3),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            verbose=False,
            optimize=False,
        )


def forget_exit_functions():
    """Let forks run at their end only what they registered themselves: the rest took as long as the start."""
    for each in list(weakref.finalize._registry):
        each.atexit = False
    atexit._clear()
    atexit.register(weakref.finalize._exitfunc)
    atexit.register(multiprocessing.util._exit_function)


def receive(connection):
    """Receive a request and the three streams."""
    space = socket.CMSG_SPACE(3 * array.array("i").itemsize)
    head, ancillary, _, _ = connection.recvmsg(8, space)
    streams = array.array("i")
    for _, _, data in ancillary:
        streams.frombytes(data)
    body = b""
    while len(body) < int.from_bytes(head, "little"):
        body += connection.recv(65536)
    return marshal.loads(body), list(streams)


def take_over(request, streams):
    """Take over the environment of the client; return the function to call."""
    words, environment, folder, mask, limits, closed = request
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for number in closed:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)
    os.environb.clear()
    os.environb.update(environment)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.chdir(folder)
    os.umask(mask)
    for kind, limit in limits:
        resource.setrlimit(kind, limit)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [os.fsdecode(word) for word in words]
    return COMMANDS[os.path.basename(sys.argv[0])]


def read_at_start(environment):
    """Return the variables that Python and torch read when they start; in a fork, they cannot differ from the server's."""
    return {name: value for name, value in environment.items() if name.startswith((b"PYTHON", b"OMP_", b"MKL_"))}


def serve(folder):
    """Handle requests until standard input ends. Returns the function to call in a fork, and None in the server."""
    alive = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    ready = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    load_everything()
    assert len(os.listdir("/proc/self/task")) == 1, "only a process of one thread can be forked"
    waiting = selectors.DefaultSelector()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(folder, "socket"))
        listener.listen(64)
        os.write(ready, b"ready\n")
        os.close(ready)
        waiting.register(listener, selectors.EVENT_READ)
        waiting.register(alive, selectors.EVENT_READ)
        running = {}  # the fork's pidfd and number by connection
        while True:
            for key, _ in waiting.select():
                if key.fileobj == alive:
                    return None
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    request, streams = receive(connection)
                    if read_at_start(request[1]) != read_at_start(os.environb):
                        for stream in streams:
                            os.close(stream)
                        connection.sendall(bytes(8))
                        connection.close()
                        continue
                    child = os.fork()
                    if not child:
                        waiting.close()
                        listener.close()
                        for other in [connection, *running]:
                            other.close()
                        os.close(alive)
                        return take_over(request, streams)
                    for stream in streams:
                        os.close(stream)
                    running[connection] = (os.pidfd_open(child), child)
                    waiting.register(running[connection][0], selectors.EVENT_READ, connection)
                    waiting.register(connection, selectors.EVENT_READ)
                    connection.sendall(child.to_bytes(8, "little"))
                elif key.data is None:  # the client was killed: kill its fork, whose end is handled below
                    waiting.unregister(key.fileobj)
                    if key.fileobj in running:
                        os.kill(running[key.fileobj][1], signal.SIGKILL)
                elif key.data in running:
                    connection = key.data
                    descriptor, child = running.pop(connection)
                    waiting.unregister(descriptor)
                    os.close(descriptor)
                    _, status = os.waitpid(child, 0)
                    if connection in [each.fileobj for each in waiting.get_map().values()]:
                        waiting.unregister(connection)
                        connection.sendall(status.to_bytes(8, "little"))
                    connection.close()


def finish(main):
    """Run a command and exit without the interpreter's cleanup, which takes a second with torch."""
    try:
        main()
    except SystemExit as stop:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):  # full disk, or closed
                stream.flush()
        os._exit(stop.code or 0)


if __name__ == "__main__":
    if main := serve(sys.argv[1]):
        finish(main)
