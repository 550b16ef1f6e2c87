"""Policies side by side: experiments, reports, plots, and the clairvoyant optimum."""
