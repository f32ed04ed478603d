"""The networks behind the rewards: how each is loaded, and what prepares its inputs.

Nothing is imported here, so that a reward waits for its own network only.
"""
