"""Methods compared at equal reward queries: ``python -m benchmarks.leaderboard``."""
