"""The clip service's HTTP API, `/v1/videos` and its accounts."""
