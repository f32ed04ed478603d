"""Methods compared at equal reward queries: ``python -m benchmarks.comparison``.

``protocol.py`` says what is run, ``runs.py`` runs it, ``search.py`` tunes every method with one
budget, ``results.py`` gathers the figures into one file, ``report.py`` and ``curves.py`` show them.
"""
