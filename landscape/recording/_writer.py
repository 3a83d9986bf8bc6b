"""The one thread that writes a recording: a bounded queue, and errors that come back to the caller."""

import atexit
import threading
from collections import deque
from collections.abc import Callable

IN_FLIGHT = 2  # snapshots that wait or are being written


class Writer:
    """Runs jobs one after the other in a thread of its own, which begins with the first and ends with `close`."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._pending = 0
        self._closing = False

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
        """Give a place back that no job was submitted for."""
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job for which a place was reserved."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="landscape recorder", daemon=True)
                self._thread.start()
                atexit.register(self.finish)

    def check(self) -> None:
        """Raise what a job has raised."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Run what was submitted, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
            atexit.unregister(self.finish)
        self._closing = False

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closing:
                    self._changed.wait()
                if not self._jobs:
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
