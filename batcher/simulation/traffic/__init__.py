"""What arrives, and when: arrival processes, recorded traces, mixes of requests, lengths and buckets."""
