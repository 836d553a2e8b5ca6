"""A model: its document, front end, filters and file, and the networks of the paper. Imports no other room."""
