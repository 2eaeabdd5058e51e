"""The line of a run about its one request."""

from __future__ import annotations

from raydc.cli.example_line import describe_example


def test_lines_of_answers() -> None:
    row = {"predictions": [{"label": "yes", "score": 0.75}]}
    assert describe_example("http://h", row, "no") == (
        "predict   http://h/predict answered yes (score 0.750); the held-out row says no"
    )
    value = {"predictions": [{"value": 2.5}]}
    assert describe_example("http://h", value, None) == "predict   http://h/predict answered 2.5"
    text = {"choices": [{"text": " was\n"}]}
    assert describe_example("http://h", text, "Once") == (
        "complete  http://h/v1/completions continued 'Once' with ' was\\n'"
    )
    talk = {"choices": [{"message": {"content": "Hi"}}]}
    assert describe_example("http://h", talk, [{"role": "user", "content": "Hello"}]) == (
        "chat      http://h/v1/chat/completions answered 'Hello' with 'Hi'"
    )
    assert "no held-out row was sent" in describe_example("http://h", None, None)
