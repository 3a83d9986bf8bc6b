"""How fast `landscape` is, beside its peers and beside its own targets: `python -m benchmarks NAME`."""
