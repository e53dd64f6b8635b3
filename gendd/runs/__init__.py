"""A run on disk: its folder, configuration and metrics, and the experiment that is loaded from it."""
