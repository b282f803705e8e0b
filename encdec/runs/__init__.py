"""Runs on disk: folders, checkpoints, exports, and what may be read of them."""
