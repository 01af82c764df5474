"""Other servers with the same model, for `benchmarks.serve_peers`; each runs in a process with its own library."""
