"""Planning: each level searches for the subgoal of the level above; planner.py has the loop."""
