"""Clips rendered step by step: a checkpoint resumes anywhere, with bit-identical frames. Knows no service."""
