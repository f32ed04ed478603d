"""Signal and noise of every step's policy gradient: ``python -m benchmarks.step_signal``.

``gradients.py`` takes per-step gradients of many batches, ``moments.py`` tells signal from noise
in them, ``weightings.py`` names the weights that are compared, ``report.py`` and ``picture.py``
show what came out.
"""
