"""A module for each file format: reads what the file holds, and knows no model."""
