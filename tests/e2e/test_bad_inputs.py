"""Bad input gets a clear error at the door, and the next good request is answered."""

from tests.e2e.bad_inputs import PAGE, all_answers, as_page


def test_every_bad_input_gets_the_documented_status_and_message() -> None:
    answers = all_answers()
    assert len(answers) >= 40
    for answer in answers:
        assert answer.status not in {"OK", "exit 0", "INTERNAL", "UNKNOWN"}, answer
        assert "Traceback" not in answer.message, answer
    assert as_page(answers) == PAGE.read_text()
