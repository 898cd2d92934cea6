import pytest
from fake_engine import FakeTokenizer

from hala_engine.errors import InputError
from hala_engine.translate.budget import Budget
from hala_engine.translate.prompts import Prompter, resolve_template


class Recorder(FakeTokenizer):
    def apply_chat(self, messages):
        self.messages = messages
        return super().apply_chat(messages)


def test_presets_are_the_pipelines_prompts():
    assert resolve_template("teacher", "en", "ar") == "Translate from English to Arabic: {text}"
    assert resolve_template("teacher", "ar-EG", "en") == "Translate from Arabic to English: {text}"
    assert (
        resolve_template("hala", "en", "ar")
        == "Translate everything that follows into Arabic:\n\n{text}"
    )


def test_a_template_keeps_its_other_braces():
    tokenizer = Recorder()
    Prompter(tokenizer, resolve_template('{"say": "{text}"} {x}', "en", "ar")).ids("{text} {y}")
    assert tokenizer.messages == [{"role": "user", "content": '{"say": "{text} {y}"} {x}'}]


@pytest.mark.parametrize("prompt", ["no place", "{text} and {text}", "techer"])
def test_a_template_needs_its_place_once(prompt):
    with pytest.raises(InputError, match=r"\{text\} once"):
        resolve_template(prompt, "en", "ar")


def test_a_language_without_a_name_needs_a_prompt():
    with pytest.raises(InputError, match="give the whole prompt"):
        resolve_template("teacher", "en", "xx")
    assert resolve_template("Say in X: {text}", "en", "xx")


def test_system_message_goes_first_and_needs_a_chat_template():
    tokenizer = Recorder()
    Prompter(tokenizer, "{text}", system="Be brief.").ids("Hello")
    assert [message["role"] for message in tokenizer.messages] == ["system", "user"]
    with pytest.raises(InputError, match="no-chat-template"):
        Prompter(tokenizer, "{text}", system="Be brief.", use_chat=False)
    tokenizer.has_chat_template = False
    with pytest.raises(InputError, match="this model has none"):
        Prompter(tokenizer, "{text}", system="Be brief.")


def test_halves_of_characters_do_not_reach_the_tokenizer():
    tokenizer = Recorder()
    Prompter(tokenizer, "{text}").ids("a\ud800b")
    assert tokenizer.messages[0]["content"] == "a\ufffdb"


def test_a_segment_and_its_translation_fit_into_the_context():
    budget = Budget.of(context=256, overhead=22, max_new_tokens=None, max_segment=None)
    assert budget.segment == 78
    for source in range(1, budget.segment + 1):
        prompt = source + 22
        assert prompt + budget.new_tokens(prompt) <= 256
    assert budget.new_tokens(22 + 10) == 2 * 10 + 32


def test_a_given_output_length_leaves_less_for_segments():
    assert Budget.of(256, 20, 200, None).segment == 36
    with pytest.raises(InputError, match="shorten --prompt"):
        Budget.of(256, 20, 234, None)
    with pytest.raises(InputError, match="--max-segment-tokens 100: at most 36"):
        Budget.of(256, 20, 200, 100)
