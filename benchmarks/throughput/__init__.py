"""What the work costs beside the denoiser alone: ``python -m benchmarks.throughput``.

``jobs.py`` says what is measured, ``machine.py`` what the device can do, ``bare.py`` times the bare
network and ``rounds.py`` whole rounds beside it, ``report.py`` shows the figures.
"""
