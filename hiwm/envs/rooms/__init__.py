"""FourRoom with a distractor: a benchmark for planning from pixels, simulated and rendered in numpy."""
