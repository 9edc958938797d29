"""Run installed commands in forks of one process that has imported torch and its like already: each start saves seconds of imports.

`serve.py FOLDER` listens at FOLDER/socket, says so with a line, and ends when its standard input does. client.py stands in for every
command: it hands over its words, environment, folder, limits and streams, passes signals on, and ends as the fork ends.
What a start from nothing does is seen by the tests that start commands themselves.
"""

import array
import atexit
import contextlib
import gc
import importlib
import marshal
import os
import resource
import selectors
import signal
import socket
import sys
from importlib.metadata import entry_points

#: What takes long to import and starts no thread; onnxruntime starts one.
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


def load_everything():
    """Import all that is heavy; cnnkit itself is imported by each fork, as by any other start."""
    for name in HEAVY:
        importlib.import_module(name)
    with contextlib.suppress(ImportError, AttributeError):  # a second of every export, where this torch has it
        from torch.onnx._internal.exporter import _registration

        _registration.ONNXRegistry.from_torchlib()
    gc.collect()
    gc.freeze()  # or the first collection of every fork would copy all of it


def receive(connection):
    """Take a request: what to run and how, and the three streams."""
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
    """Become the process that asked, but for its number; returns the entry point to call."""
    words, environment, folder, mask, limits, closed = request
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for number in closed:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)
    os.environb.clear()
    os.environb.update(environment)
    os.chdir(folder)
    os.umask(mask)
    for kind, limit in limits:
        resource.setrlimit(kind, limit)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [os.fsdecode(word) for word in words]
    (entry,) = entry_points(group="console_scripts", name=os.path.basename(sys.argv[0]))
    return entry.load()


def read_at_start(environment):
    """Give those variables that Python and torch read when they start: a fork comes too late for others than the server's."""
    return {name: value for name, value in environment.items() if name.startswith((b"PYTHON", b"OMP_", b"MKL_"))}


def serve(folder):
    """Answer requests until standard input ends. Returns in a fork, with the entry point to call there; None in the server."""
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
                elif key.data is None:  # whoever asked was killed, and so is the fork; its end comes by the line below
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
    """Run a command and end, without the second that an interpreter takes to throw all of torch away."""
    try:
        main()
    except SystemExit as stop:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):  # full, or closed
                stream.flush()
        os._exit(stop.code or 0)


if __name__ == "__main__":
    if main := serve(sys.argv[1]):
        finish(main)
