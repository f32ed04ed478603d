"""Rewards on another machine: what is sent, what comes back, and who asks whom."""
