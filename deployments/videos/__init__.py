"""The clip service's HTTP side: what is ordered over `/v1/videos`, and what becomes of it."""
