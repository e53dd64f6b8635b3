"""The generative head, to be read with the paper (arXiv 2507.14503): schedule, objective, draws, denoiser, head."""
