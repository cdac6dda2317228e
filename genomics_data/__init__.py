"""Embedded DNA reads and the tables that made them."""
