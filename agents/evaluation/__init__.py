"""What a policy is judged by: rewards on other prompts, diversity, drift, pictures."""

from agents.evaluation.evaluation import Evaluation, PairedDifference, evaluate, paired_difference
from agents.evaluation.image_metrics import Monitor

__all__ = ["Evaluation", "Monitor", "PairedDifference", "evaluate", "paired_difference"]
