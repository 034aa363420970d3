"""Planning: landmarks, solvers, top-down delegation."""
