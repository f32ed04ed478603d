"""Methods compared at equal reward queries: ``python -m benchmarks.leaderboard``.

``protocol.py`` and ``methods.py`` read what is run from data files, ``jobs.py`` says which runs are
left, ``training.py`` makes one, ``matrix.py`` and ``scheduling.py`` make all, ``statistics.py`` and
``standings.py`` compare them, ``report.py`` and ``page.py`` show them, ``checking.py`` validates.
"""
