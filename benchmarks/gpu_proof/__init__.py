"""All that is to be proved on a GPU, in one command: ``python -m benchmarks.gpu_proof``.

``parts.py`` says what is run, each part a command of its own; ``report.py`` gathers
what they leave.
"""
