"""Methods compared at equal cost: ``python -m benchmarks.leaderboard``."""
