"""A loop that records until it is killed: `python recording_loop.py PATH`. Says each step that it has begun."""

import sys

import numpy as np

import landscape as ls


def snapshot(step):
    """Parameters that a step alone decides, of several leaves, none of them small enough to be written at once."""
    rng = np.random.default_rng(step)
    return {"a": rng.normal(size=(150, 170)), "b": [rng.normal(size=9).astype(np.float32), rng.normal(size=30_000)]}


def main():
    with ls.Recorder(sys.argv[1]) as recorder:
        begin = max(recorder.steps, default=-1)
        print("begin", begin, flush=True)
        for step in range(max(begin, 0), 10_000):
            recorder(step, snapshot(step), train_loss=1.5 * step)


if __name__ == "__main__":
    main()
