"""The comparison with other libraries: rows, fair alternation, one worker process for each contestant.

`rows` says what is computed and `networks` of what network, `harness` alternates and judges, `process` talks to a
worker, `worker_*` are the workers (each runs in its own environment and speaks `protocol`), `limits` and `report` turn
times into a table. `speeds` measures the machine, `instructions` and `passes` read compiled loops.
"""
