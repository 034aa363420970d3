"""Regularisers: what keeps latents and macro-actions from collapsing."""
