"""A command in a forked process, in a tenth of a second: an interpreter of its own takes ten to import torch and Lightning.

It has a session of its own (a terminal's Ctrl-C reaches it and its children), its standard error is a pipe, and it ends
without the exit handlers of pytest, which are the parent's.
"""

import os
import signal
import subprocess
import sys
import threading
import traceback

import pytest
import torch


def require_fork():
    """Skip the test where this process' autograd has started threads: torch then refuses a backward pass in a fork of it.

    What starts them is not known; it was seen once, in a process that had compiled, exported and served models before.
    """
    pid = os.fork()
    if not pid:
        code = 1
        try:
            torch.ones(1, requires_grad=True).backward()
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        pytest.skip("autograd's threads are running here: torch refuses backward passes in a fork")


class Forked:
    """``function(*arguments)``, which returns an exit code, in a forked process; behaves as subprocess.Popen does.

    Args:
        function: what runs; tensors and modules that it shares with the parent are copies.
        arguments: its arguments.
        preexec_fn: is called in the new process first.
    """

    def __init__(self, function, *arguments, preexec_fn=None):
        require_fork()
        ours, theirs = os.pipe()
        self.returncode = None
        self.pid = os.fork()
        if not self.pid:
            os.close(ours)
            _child(theirs, function, arguments, preexec_fn)
        os.close(theirs)
        self._text = []
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def _read(self, ours):
        with open(ours, encoding="utf-8", errors="replace") as stderr:
            self._text.extend(stderr)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self):
        if self.returncode is None:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self):
        self._send(signal.SIGKILL)

    def terminate(self):
        self._send(signal.SIGTERM)

    def _send(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout=120):
        """Return (None, standard error) once it has ended; kill it and raise TimeoutExpired after ``timeout`` seconds."""
        killer = threading.Timer(timeout, self.kill)
        killer.start()
        self.wait()
        late = not killer.is_alive()
        killer.cancel()
        self._reader.join(5)  # a worker that outlives it may hold the pipe
        if late:
            raise subprocess.TimeoutExpired("forked", timeout, stderr="".join(self._text))
        return None, "".join(self._text)


def _child(stderr, function, arguments, preexec_fn):
    code = 1
    try:
        os.setsid()
        os.dup2(stderr, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if preexec_fn is not None:
            preexec_fn()
        code = function(*arguments)
    except SystemExit as exit:
        code = exit.code
    except KeyboardInterrupt:  # as the interpreter: it kills itself by the signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
