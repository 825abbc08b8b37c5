"""Steering by aesthetics: embeddings and heads of one's own, prompts, differentiable scores."""
