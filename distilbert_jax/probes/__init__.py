"""Probes of a trained model: bias, the model card's prompts, speed."""
