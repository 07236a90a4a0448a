"""Two ranks of a run as forked processes, in a second: torchrun's start and the imports take tens."""

import multiprocessing
import os
import pickle
import socket
import traceback

import torch
import torch.distributed as dist
from forked import require_fork


def two_ranks(function, *arguments, timeout=120):
    """Run ``function(*arguments)`` in two processes with torchrun's environment variables; return both results.

    Results are pickled; a process that fails or takes more than ``timeout`` seconds fails the test with its traceback.
    """
    require_fork()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    started = []
    for rank in range(2):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(rank, port, theirs, function, arguments))
        process.start()
        theirs.close()
        started.append((process, ours))
    try:
        results = []
        for rank, (_, connection) in enumerate(started):
            assert connection.poll(timeout), f"rank {rank} takes more than {timeout} s"
            result, error = pickle.loads(connection.recv_bytes())
            assert not error, f"rank {rank}: {error}"
            results.append(result)
        return results
    finally:
        for process, connection in started:
            connection.close()
            process.join(5)
            process.kill()


def _run(rank, port, connection, function, arguments):
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    # by value: the connection's own pickling shares tensors' memory, which a process that has ended serves no more
    try:
        connection.send_bytes(pickle.dumps((function(*arguments), None)))
    except BaseException:
        connection.send_bytes(pickle.dumps((None, traceback.format_exc())))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        os._exit(0)  # pytest's exit handlers are the parent's
