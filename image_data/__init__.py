"""Embedded samples of image data sets; full sets lie here when they are fetched into a checkout."""
