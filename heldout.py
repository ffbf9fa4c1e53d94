"""The former place of evaluating/golds.py and evaluating/heldout.py; train_dpo.py uses it still."""

from evaluating.golds import check_protocol, with_answers
from evaluating.heldout import Evaluation, draw, evaluate_all

__all__ = ["Evaluation", "check_protocol", "draw", "evaluate_all", "with_answers"]
