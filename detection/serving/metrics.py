"""Counts and latencies of a service, in the text format of Prometheus."""

import threading
from collections import Counter

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


class Metrics:
    """Counts requests by status, and adds up how long they took."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests: Counter[int] = Counter()
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.detections = 0

    def add(self, status: int, seconds: float, detections: int = 0) -> None:
        """Count a request."""
        with self.lock:
            self.requests[status] += 1
            self.buckets[sum(seconds > bound for bound in BUCKETS)] += 1
            self.seconds += seconds
            self.detections += detections

    def text(self, waiting: int, batches: list[int]) -> str:
        """Return all of them; ``waiting`` is how many requests are in the queue, ``batches`` how many there were of each
        size."""
        with self.lock:
            lines = ["# TYPE resdet_requests_total counter"]
            lines += [f'resdet_requests_total{{status="{code}"}} {n}' for code, n in sorted(self.requests.items())]
            lines += ["# TYPE resdet_request_seconds histogram"]
            total = 0
            for bound, count in zip([*map(str, BUCKETS), "+Inf"], self.buckets, strict=True):
                total += count
                lines.append(f'resdet_request_seconds_bucket{{le="{bound}"}} {total}')
            lines += [f"resdet_request_seconds_sum {self.seconds:.6f}", f"resdet_request_seconds_count {total}"]
            lines += ["# TYPE resdet_detections_total counter", f"resdet_detections_total {self.detections}"]
        lines += ["# TYPE resdet_waiting gauge", f"resdet_waiting {waiting}", "# TYPE resdet_batches_total counter"]
        lines += [f'resdet_batches_total{{size="{size}"}} {n}' for size, n in enumerate(batches, 1) if n]
        return "\n".join(lines) + "\n"
