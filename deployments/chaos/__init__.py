"""Kills parts of the running application while clips are ordered, and checks that nothing is lost or done twice."""
