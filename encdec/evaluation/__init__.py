"""One evaluation for every paradigm, with or without an encoder."""
