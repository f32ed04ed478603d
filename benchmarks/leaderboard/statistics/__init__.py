"""What can be said about methods from a few seeds; the seed is the unit, paired between methods.

``intervals.py`` holds the intervals and ``coverage.py`` shows what they cover, ``significance.py``
is the confirmatory test, ``target.py`` counts what was spent until a reward was reached,
``ranks.py`` says how many seeds an order of methods needs, ``pareto.py`` which methods are best at
their price.
"""
