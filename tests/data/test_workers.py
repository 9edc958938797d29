"""Processes that decode: their results, messages and errors are those of threads, and nothing is left of them."""

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from cnnkit.data import decode, workers
from cnnkit.data.memory import SharedBudget
from cnnkit.data.shared_memory import SharedBytes
from cnnkit.data.source import ImageFile
from cnnkit.data.workers import Workers
from cnnkit.errors import BadImageError, WorkerError


def children():
    """The processes that this one has started and that still run."""
    with open(f"/proc/self/task/{threading.get_native_id()}/children") as file:
        return set(file.read().split())


@pytest.fixture
def left():
    """Check that neither processes nor threads nor descriptors are left."""
    before = children(), threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    assert (children(), threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_results_errors_and_limits_are_those_of_threads(tmp_path, left, caplog):
    """An image, a broken one, one above --max-pixels, one that is damaged twice, and an exception that no image causes."""
    image = Image.linear_gradient("L").resize((60, 40))
    image.save(tmp_path / "good.png")
    image.resize((80, 80)).save(tmp_path / "large.png")
    (tmp_path / "bad.png").write_bytes(b"")
    image.convert("1").resize((200, 12)).save(tmp_path / "damaged.tif", compression="group4")
    stored = (tmp_path / "damaged.tif").read_bytes()
    (tmp_path / "damaged.tif").write_bytes(stored[:40] + bytes(byte ^ 0x5A for byte in stored[40:60]) + stored[60:])
    paths = [str(tmp_path / name) for name in ("good.png", "bad.png", "large.png", "damaged.tif", "damaged.tif")]
    with decode.at_most(60 * 40), Workers(decode.load, count=2, threads=3) as pool, caplog.at_level(logging.INFO):
        found = [workers.value_of(future.result()) for future in [pool.submit(path) for path in paths]]
        with pytest.raises(RuntimeError, match=r"^TypeError in a worker process: ") as caught:
            workers.value_of(pool.submit(3.5).result())
    assert found[0].tobytes() == decode.load(paths[0]).tobytes()
    for place in (1, 2):
        with pytest.raises(BadImageError) as expected, decode.at_most(60 * 40):
            decode.load(paths[place])
        assert type(found[place]) is BadImageError
        assert str(found[place]) == str(expected.value)
    assert found[3].tobytes() == found[4].tobytes()
    assert caplog.messages == [f"{paths[3]}: partly damaged; used as far as it can be decoded"]
    assert caught.value.__notes__[0].startswith("Traceback")


def test_a_killed_worker_ends_the_work(left):
    """Its items, those of the others, and those not begun fail with one line that names the first one; so do later ones."""
    with Workers(time.sleep, count=2, threads=2) as pool:
        futures = [pool.submit(60) for _ in range(40)]
        os.kill(pool.process_ids[0], signal.SIGKILL)
        for future in futures:
            with pytest.raises(WorkerError, match=r"a worker process was killed by SIGKILL, as when memory is full;"):
                future.result(timeout=20)
        with pytest.raises(WorkerError, match="killed by SIGKILL"):
            pool.submit(1)


@pytest.mark.parametrize("result", ["lambda: 0", "threading.Lock()"])
def test_a_result_that_cannot_be_sent_is_a_failure(left, result):
    """It has no traceback that ends the process: those after it are answered."""
    with Workers(eval, count=1, threads=1) as pool:
        futures = [pool.submit(each.replace("threading", "__import__('threading')")) for each in ("1", result, "2")]
        results = [future.result(timeout=20) for future in futures]
        with pytest.raises(RuntimeError, match=r"^\w+ in a worker process: .*pickle") as caught:
            workers.value_of(results[1])
    assert [workers.value_of(results[place]) for place in (0, 2)] == [1, 2]
    assert caught.value.__notes__[0].startswith("Traceback")


def test_a_result_that_cannot_be_received_ends_the_work(left):
    """All items fail with the exception, and so does the next one."""
    with Workers(eval, count=2, threads=2) as pool:
        waiting = pool.submit("__import__('time').sleep(60)")
        bad = pool.submit("type('Bad', (), {'__reduce__': lambda self: (int, ('x',))})()")
        for future in (waiting, bad):
            with pytest.raises(
                ValueError, match=r"^invalid literal .*\nwhile results of the worker processes were received$"
            ):
                future.result(timeout=20)
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit("1")


def test_an_item_that_cannot_be_sent_ends_the_work(left):
    """`submit` raises the exception, and what waits in the same message fails with it."""
    with Workers(eval, count=1, threads=1) as pool:
        waiting = pool.submit("__import__('time').sleep(60)")
        with pytest.raises(TypeError, match="pickle"):
            pool.submit(threading.Lock())
        with pytest.raises(TypeError, match="pickle"):
            waiting.result(timeout=20)


def test_an_item_that_waited_and_cannot_be_sent_ends_the_work(left):
    """It is sent when results are received, which its exception has no note of."""
    with Workers(eval, count=1, threads=1) as pool:
        futures = [pool.submit("__import__('time').sleep(0.02)") for _ in range(20)]
        futures.append(pool.submit(threading.Lock()))
        with pytest.raises(TypeError, match="pickle") as caught:
            futures[-1].result(timeout=20)
    assert not hasattr(caught.value, "__notes__")


def test_a_thread_that_ends_takes_its_process_with_it(left):
    with Workers(eval, count=1, threads=2) as pool:
        waiting = pool.submit("__import__('time').sleep(60)")
        ended = pool.submit("__import__('sys').exit()")
        for future in (waiting, ended):
            with pytest.raises(WorkerError, match=r"^a worker process ended with status 1;"):
                future.result(timeout=20)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (-9, "a worker process was killed by SIGKILL, as when memory is full while it decoded a.jpg and 1 more; try"),
        (-11, "a worker process was killed by SIGSEGV while it decoded a.jpg and 1 more; try fewer --workers"),
        (1, "a worker process ended with status 1 while it decoded a.jpg and 1 more; decode without --workers"),
    ],
)
def test_the_line_about_a_lost_worker(status, line):
    assert workers._reason(status, [ImageFile("a.jpg"), ImageFile("b.jpg")]).startswith(line)


def test_workers_end_with_the_process_that_started_them(wait_for):
    """Even if it is killed; and it needs no `if __name__`, since its program is not imported again."""
    program = (
        "import time; from cnnkit.data.workers import Workers\n"
        "pool = Workers(time.sleep, count=2, threads=2); pool.submit(0).result()\n"
        "print(*pool.process_ids, flush=True)\n"
        "pool.submit(60).result()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        names = process.stdout.readline().split()
        assert len(names) == 2
        process.kill()
    wait_for(lambda: not any(map(running, names)))


def running(name):
    """Whether a process runs, and is no zombie that its new parent has not collected yet."""
    try:
        with open(f"/proc/{name}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_import_neither_torch_nor_onnxruntime(left):
    """What they import decides how soon they begin and how much memory they take."""
    with Workers(eval, count=1, threads=1) as pool:
        loaded = set(pool.submit("set(__import__('sys').modules)").result().value)
    assert "PIL.Image" in loaded
    assert not loaded & {"torch", "onnxruntime", "onnx", "typer", "scipy"}


def test_budget_of_several_processes():
    """An item that is larger than what is left waits, whichever process has the rest; a single one may be larger than everything."""
    budget, order = SharedBudget(10), []
    other = SharedBudget(10, SharedBytes._inherited(os.dup(budget.shared.descriptor), 8))  # as another process has it

    def work(each, size):
        with each.taken(size):
            order.append(size)
            time.sleep(0.01)
            order.append(-size)

    with ThreadPoolExecutor(3) as executor:
        list(executor.map(work, itertools.cycle([budget, other]), [50, 60, 70]))
    assert [abs(each) for each in order[::2]] == [abs(each) for each in order[1::2]]
    with budget.taken(5), other.taken(5):
        assert not other._change(1, limited=True)
    other.shared.close()
    budget.shared.close()
