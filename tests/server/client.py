"""Stand in for a command: hand everything over to serve.py, and end as its fork ends. Starts within milliseconds, so it imports little."""

import _signal
import _socket
import array
import marshal
import os
import resource
import sys


def closed_streams():
    """List the standard streams that are closed, and open something in their place, so that a socket does not become one."""
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            closed.append(os.open(os.devnull, os.O_RDWR))
    return closed


def hand_over(path, words):
    """Run a command in the server's fork, or become it where the server refuses; returns the fork's wait status."""
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
    answer = server.recv(8)
    return int.from_bytes(answer, "little") if answer else 1 << 8


if __name__ == "__main__":
    status = hand_over(sys.argv[1], sys.argv[2:])
    if os.WIFSIGNALED(status):
        _signal.signal(os.WTERMSIG(status), _signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))
