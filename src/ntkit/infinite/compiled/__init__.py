"""The compiled engine: programs on CPU data, by numba, on all cores. Begin with machine.py, then interpreter.py."""
