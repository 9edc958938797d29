"""Run a command in a fork of serve.py, and end as the fork ends. It imports little, to start within milliseconds."""

import _signal
import _socket
import array
import marshal
import os
import resource
import sys


def closed_streams():
    """Return the closed standard streams, after opening /dev/null in their place, so that no socket gets their numbers."""
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            closed.append(os.open(os.devnull, os.O_RDWR))
    return closed


def run_in_server(path, words):
    """Run a command in a fork of the server, or execute it if the server refuses; return the fork's wait status."""
    limits = [(kind, resource.getrlimit(kind)) for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)]
    os.umask(mask := os.umask(0))
    closed = closed_streams()
    request = marshal.dumps(
        ([os.fsencode(word) for word in words], dict(os.environb), os.getcwd(), mask, limits, closed)
    )
    server = _socket.socket(_socket.AF_UNIX)
    server.connect(path)
    passed = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    signals = (_signal.SIGINT, _signal.SIGTERM)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, signals)
    server.sendmsg([len(request).to_bytes(8, "little")], passed)
    server.sendall(request)
    if not (fork := int.from_bytes(server.recv(8), "little")):
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, signals)
        for number in closed:
            os.close(number)
        os.execv(words[0], words)
    for each in signals:
        _signal.signal(each, lambda number, _frame: os.kill(fork, number))
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, signals)
    ended = server.recv(8)
    return int.from_bytes(ended, "little") if ended else 1 << 8


if __name__ == "__main__":
    status = run_in_server(sys.argv[1], sys.argv[2:])
    if os.WIFSIGNALED(status):
        _signal.signal(os.WTERMSIG(status), _signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))
