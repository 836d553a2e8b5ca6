"""A module for each family of published checkpoints: from what a reader found to a model document and its tensors."""
