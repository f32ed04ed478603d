"""Reinforcement learning on the forward process (DiffusionNFT, arXiv 2509.16117, and its kin)."""

from agents.nft.buffer import FinalImages, ImageBuffer
from agents.nft.losses import awm_loss, nft_loss
from agents.nft.nft import DiffusionNFT

__all__ = ["DiffusionNFT", "FinalImages", "ImageBuffer", "awm_loss", "nft_loss"]
