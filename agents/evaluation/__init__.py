"""What a policy is judged by: rewards on other prompts, diversity, drift, pictures."""

from agents.evaluation.evaluation import Evaluation, PairedDifference, evaluate, paired_difference
from agents.evaluation.image_metrics import ImageMetrics

__all__ = ["Evaluation", "ImageMetrics", "PairedDifference", "evaluate", "paired_difference"]
