"""Trained models that the package ships, as run folders."""
