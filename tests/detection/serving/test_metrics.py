from detection.serving.metrics import Metrics


def test_counts_by_hand():
    metrics = Metrics()
    metrics.add(200, 0.07, 3)
    metrics.add(200, 0.3, 1)
    metrics.add(503, 100)
    lines = metrics.text(2, [4, 0, 1]).splitlines()
    for line in (
        'resdet_requests_total{status="200"} 2',
        'resdet_requests_total{status="503"} 1',
        'resdet_request_seconds_bucket{le="0.05"} 0',
        'resdet_request_seconds_bucket{le="0.1"} 1',
        'resdet_request_seconds_bucket{le="0.5"} 2',
        'resdet_request_seconds_bucket{le="30.0"} 2',
        'resdet_request_seconds_bucket{le="+Inf"} 3',
        "resdet_request_seconds_sum 100.370000",
        "resdet_request_seconds_count 3",
        "resdet_detections_total 4",
        "resdet_waiting 2",
        'resdet_batches_total{size="1"} 4',
        'resdet_batches_total{size="3"} 1',
    ):
        assert line in lines
    assert not [line for line in lines if 'size="2"' in line]
