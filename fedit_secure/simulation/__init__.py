"""A whole federation on one machine: its files, and a run of it in one process.

`parties` and `run` load torch; `processes` doesn't.
"""
