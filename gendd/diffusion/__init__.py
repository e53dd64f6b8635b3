"""The generative head of the paper (arXiv 2507.14503): schedule, objective, draws, denoiser, head."""
