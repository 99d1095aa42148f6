"""Planning: what a run takes on a machine that is not here, by that machine's own compiler."""
