"""Pesi-CNN: skin lesion classification in dermoscopy images with attention residual learning."""
