"""A module for each file format. It gives the layers or tensors of a file, and knows no model."""
