"""The one thread that writes a recording: a bounded queue, and errors that come back to the caller."""

import threading
from collections import deque
from collections.abc import Callable

IN_FLIGHT = 2  # snapshots that wait or are being written


class Writer:
    """Runs jobs one after the other in a thread, which ends when none is left.

    The thread is no daemon: Python waits for it at its end, so that what was submitted is written.
    """

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._running = False
        self._error: BaseException | None = None
        self._pending = 0

    def reserve(self) -> None:
        """Wait until fewer jobs are under way than are allowed, and take a place; an error of an earlier one is raised.

        Copies are made after this, so that never more of them exist than there are places.
        """
        with self._changed:
            while self._error is None and self._pending >= IN_FLIGHT:
                self._changed.wait()
            self.check()
            self._pending += 1

    def release(self) -> None:
        """Give a place back."""
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job for which a place was reserved."""
        with self._changed:
            self._jobs.append(job)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="landscape recorder").start()

    def check(self) -> None:
        """Raise what a job has raised."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all is written that was submitted."""
        with self._changed:
            while self._pending:
                self._changed.wait()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._running = False
                    return
                job = self._jobs.popleft()
            self._carry_out(job)
            del job  # it holds a snapshot
            self.release()

    def _carry_out(self, job: Callable[[], None]) -> None:
        """After an error nothing more is written: a recording with a gap would look whole."""
        try:
            if self._error is None:
                job()
        except BaseException as error:  # whatever it is belongs to the caller
            self._error = error
