import pytest

from detection.cli import run


@pytest.fixture
def served(monkeypatch):
    """The arguments that the service is started with."""
    import uvicorn

    seen = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: seen.update(app=app, **options))
    monkeypatch.setattr(
        "detection.commands.serve.Predictor", lambda weights, **options: seen.update(weights=weights, **options)
    )
    monkeypatch.setattr("detection.commands.serve.make_app", lambda predictor, limits: limits)
    return seen


def test_this_machine_alone_is_served_unless_told(served, capsys):
    assert run("serve", ["best.pth"]) == 0
    assert (served["host"], served["port"], served["weights"]) == ("127.0.0.1", 8000, "best.pth")
    assert "http://127.0.0.1:8000/" in capsys.readouterr().out
    assert (
        run(
            "serve",
            ["d.onnx", "--host", "0.0.0.0", "--port", "9", "--waiting", "2", "--max-bytes", "77", "--score", "0.3"],
        )
        == 0
    )
    assert (served["host"], served["port"], served["score_threshold"]) == ("0.0.0.0", 9, 0.3)
    assert (served["app"].waiting, served["app"].max_bytes) == (2, 77)


def test_errors_of_the_user(capsys):
    assert run("serve", ["best.pth", "--waiting", "0"]) == 2
    assert "--waiting must be at least 1" in capsys.readouterr().err
    assert run("serve", ["none.pth"]) == 2
    assert "none.pth" in capsys.readouterr().err
