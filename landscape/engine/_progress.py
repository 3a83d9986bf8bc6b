"""What a sweep says while it runs: a bar or lines, previews for who watches; and how it is stopped between tiles."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any, Literal

from landscape.grid import Landscape

LOG_SECONDS = 30.0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C arrived; the tile under way was finished and stored first. The message says how to go on."""


class Progress:
    """Counts points towards a total, on stderr."""

    def __init__(self, total: int, done: int, show: bool | Literal["auto"], what: str = "sweep") -> None:
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._total, self._done, self._what = total, done, what
        self._log = show is True or show == "auto"
        self._start = self._last = time.monotonic()
        if show is True or (show == "auto" and self._terminal):
            from tqdm import tqdm

            self._log = False
            self._bar = tqdm(total=total, initial=done, desc=what, unit="pt", unit_scale=True, leave=False)

    def advance(self, points: int) -> None:
        """Count points that are finished."""
        self._done += points
        if self._bar is not None:
            self._bar.update(points)
        elif self._log and time.monotonic() - self._last > LOG_SECONDS:
            self._last = time.monotonic()
            share, elapsed = self._done / self._total, self._last - self._start
            print(
                f"{self._what}: {self._done} of {self._total} points ({share:.0%}) after {elapsed:.0f} s",
                file=sys.stderr,
                flush=True,
            )

    def expect(self, total: int) -> None:
        """Change the total."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total

    def say(self, text: str) -> None:
        """One line on stderr, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


_STOP: ContextVar[threading.Event | None] = ContextVar("stop", default=None)
_WATCH: ContextVar[Callable[[Landscape], None] | None] = ContextVar("watch", default=None)


@contextlib.contextmanager
def stoppable(event: threading.Event) -> Generator[None]:
    """Sweeps with a store in this context end with `Interrupted` after the tile under way, once the event is set."""
    token = _STOP.set(event)
    try:
        yield
    finally:
        _STOP.reset(token)


@contextlib.contextmanager
def observed(watch: Callable[[Landscape], None]) -> Generator[None]:
    """Sweeps at a tolerance in this context show what is known after each round, the first round coarse to fine.

    What `watch` is given is of the moment: the values are predicted without a promise, and its arrays may change later.
    """
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


def observer() -> Callable[[Landscape], None] | None:
    """Who wants to see what is known so far, if anybody."""
    return _WATCH.get()


@contextlib.contextmanager
def interruptible() -> Generator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts at once. Only the main thread may listen."""
    if (event := _STOP.get()) is not None:
        yield event
        return
    event = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    foreign = previous in (None, signal.SIG_IGN)  # set by C code, or a background job that is not to listen
    if foreign or threading.current_thread() is not threading.main_thread():
        yield event
        return

    def remember(signum: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nfinishing the tile under way (Ctrl-C again stops at once)", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, remember)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
