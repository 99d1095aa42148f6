"""Models compared: experiments, ablations, reports."""
