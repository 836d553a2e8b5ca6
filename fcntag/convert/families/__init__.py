"""A module for each family of published checkpoints: it builds the document and tensors from a reader's contents."""
