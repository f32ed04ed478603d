"""Models of Stable Diffusion's sizes with random weights: speed and memory are the real ones'.

``networks.py`` has the networks' sizes, ``checkpoints.py`` saves them as checkpoints are.
"""
