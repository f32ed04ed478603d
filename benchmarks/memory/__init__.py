"""How many (image, step) pairs fit into a card: ``python -m benchmarks.memory``."""
