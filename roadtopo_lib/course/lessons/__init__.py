"""Machinery of single notebooks, one module each: what a lesson needs and does not teach."""
