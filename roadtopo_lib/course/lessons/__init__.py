"""Machinery of single notebooks: what a lesson needs and does not teach."""
