"""A training run: its settings, its folder, what is seen of it, and what builds its parts."""
