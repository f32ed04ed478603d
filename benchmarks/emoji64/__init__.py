"""How the embedded model emoji-64 is made and measured.

``python -m benchmarks.emoji64`` trains it, ``python -m benchmarks.emoji64.evaluate`` measures it.
The steps, one module each: icons and sprites (pictures of single objects), scenes, sampling,
captions and composer (pictures with captions), networks, training, one module per stage, export.
"""
