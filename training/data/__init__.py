"""From labelled images to batches: what is there, what an epoch takes of it, in what order, and how it is augmented."""
