"""Bundles over data sets of any size: scores on held-out rows, predictions for files."""

from raydc.evaluate.file_completions import CompletionOptions
from raydc.evaluate.file_predictions import predict_file
from raydc.evaluate.held_out_scores import run

__all__ = ["CompletionOptions", "predict_file", "run"]
