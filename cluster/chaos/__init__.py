"""`gamegen chaos videos`: kills parts of a running application while clips are ordered, and checks every clip."""
