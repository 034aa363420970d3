"""FourRoom with distractors: a benchmark for planning from pixels, rendered by numpy."""
