"""Thoughts of reasoning models: found by template and tokenizer, and told from the text."""

from __future__ import annotations

from itertools import pairwise

import pytest

from darwin_align.backends.templates import ChatTemplate
from darwin_align.backends.turns import to_chat
from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.core.types import Message, Request, Response
from darwin_align.formats.thoughts import Channels, Split, Tags
from tests.backends.thinking_kit import CHANNELS, MAY_THINK, THINKS, TOOL_CHANNELS, channels, ids_of, tags

HI = Request.of("Hi")
ANSWERED = "<think>\nShe greets.\n</think>\n\nHello!<|im_end|>"
CHANNELLED = (
    "<|channel|>analysis<|message|>She greets.<|end|><|start|>assistant<|channel|>final<|message|>Hello!<|return|>"
)


def split(template: ChatTemplate, text: str, request: Request = HI) -> Split:
    form = template.thoughts(request)
    assert form is not None
    return form.split(ids_of(template.tokenizer, text), template.detokenizer.text)


@pytest.mark.parametrize("marks", [True, False])
def test_thoughts_that_the_model_begins(new_tokenizer, marks):
    template = ChatTemplate(tags(new_tokenizer, marks=marks))
    assert isinstance(template.thought_format, Tags)
    assert split(template, ANSWERED)[:3] == ("Hello!", "She greets.", False)
    assert split(template, "<think>\nShe gree")[:3] == ("", "She gree", True)
    assert split(template, "Hello <think> there")[:3] == ("Hello <think> there", "", False)


@pytest.mark.parametrize("marks", [True, False])
def test_thoughts_that_the_prompt_begins(new_tokenizer, marks):
    template = ChatTemplate(tags(new_tokenizer, THINKS, marks=marks))
    assert split(template, "She greets.\n</think>\n\nHello!")[:3] == ("Hello!", "She greets.", False)
    assert split(template, "She greets.")[:3] == ("", "She greets.", True)
    assert split(template, "")[2]


def test_channels(new_tokenizer):
    template = ChatTemplate(channels(new_tokenizer))
    assert isinstance(template.thought_format, Channels)
    assert split(template, CHANNELLED)[:3] == ("Hello!", "She greets.", False)
    assert split(template, "<|channel|>analysis<|message|>She gree")[:3] == ("", "She gree", True)
    assert split(template, "<|channel|>final<|message|>Hello!")[:2] == ("Hello!", "")
    assert split(template, "Hello!")[:3] == ("Hello!", "", False)
    call = "<|channel|>commentary to=functions.heat json<|message|>{}<|call|>"
    assert split(template, call)[:2] == (f"<|start|>assistant{call}", "")


TOOLS = ({"type": "function", "function": {"name": "heat", "parameters": {"properties": {"to": {"type": "integer"}}}}},)
CALL = '{} to=functions.heat <|constrain|>json<|message|>{{"to": 80}}<|call|>'


@pytest.mark.parametrize("header", ["<|channel|>commentary", "<|channel|>analysis", ""])
def test_calls_between_channels(new_tokenizer, header):
    template = ChatTemplate(channels(new_tokenizer, TOOL_CHANNELS))
    assert template.renders_tool_conversations
    syntax = template.tool_syntax
    assert syntax.texts is None  # read, not forced
    thought = "<|channel|>analysis<|message|>She wants tea.<|end|><|start|>assistant"
    said = "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant"
    for before, text in (("", ""), (thought, ""), (said, "One moment."), (thought + said, "One moment.")):
        found = split(template, before + CALL.format(header))
        parsed = syntax.parse(found.text, TOOLS, finished=True)
        assert (parsed.text, parsed.invalid) == (text, ())
        [call] = parsed.calls
        assert (call.name, call.arguments) == ("heat", {"to": 80})
    cut = split(template, CALL.format(header).partition("80")[0])
    assert syntax.parse(cut.text, TOOLS).open
    assert syntax.parse(cut.text, TOOLS, finished=True).invalid
    other = split(template, CALL.format(header).replace("heat", "cool"))
    [invalid] = syntax.parse(other.text, TOOLS, finished=True).invalid
    assert "no tool 'cool'" in invalid.reason


def test_a_calls_end_ends_an_answer(new_tokenizer):
    template = ChatTemplate(channels(new_tokenizer))
    ends = {template.tokenizer.convert_tokens_to_ids(mark) for mark in ("<|return|>", "<|call|>")}
    assert template.ends == ends


@pytest.mark.parametrize(("make", "text"), [(tags, ANSWERED), (channels, CHANNELLED)])
def test_a_growing_state_never_takes_back_its_text(new_tokenizer, make, text):
    template = ChatTemplate(make(new_tokenizer))
    form, ids = template.thoughts(HI), ids_of(template.tokenizer, text)
    assert form is not None
    splits = [form.split(ids[:k], template.detokenizer.text) for k in range(len(ids) + 1)]
    for before, after in pairwise(splits):
        assert after.text.startswith(before.text)
        assert after.thoughts.startswith(before.thoughts.rstrip())
        assert before.thinking or before.text_from == after.text_from or not before.text


def test_a_switch_that_ends_the_thoughts_in_the_prompt(new_tokenizer):
    template = ChatTemplate(tags(new_tokenizer))
    off = Request.of("Hi", chat_template_kwargs={"enable_thinking": False})
    assert template.thoughts(off) is None
    assert template.prompt_text(off).endswith("<think>\n\n</think>\n\n")
    assert template.prompt_ids(off) != template.prompt_ids(HI)
    always = ChatTemplate(tags(new_tokenizer), switches={"enable_thinking": False})
    assert always.prompt_ids(HI) == template.prompt_ids(off)
    on = Request.of("Hi", chat_template_kwargs={"enable_thinking": True})
    assert always.prompt_ids(on) == template.prompt_ids(HI)


def test_a_switch_that_the_template_does_not_read(new_tokenizer):
    with pytest.raises(RequestError, match=r"does not read .*'thinking': ….*did you mean 'enable_thinking'"):
        ChatTemplate(tags(new_tokenizer)).prompt_ids(Request.of("Hi", chat_template_kwargs={"thinking": False}))
    with pytest.raises(ConfigError, match="it has no switches"):
        ChatTemplate(tags(new_tokenizer, "{{ messages[0].content }}"), switches={"enable_thinking": False})


def test_no_evidence_no_thoughts(tokenizers):
    for name in ("llama", "qwen3", "gpt2"):
        template = ChatTemplate(tokenizers[name])
        assert template.thought_format is None
        assert template.thoughts(HI) is None


@pytest.mark.parametrize(
    ("shown", "begin", "end"),
    [
        ("<|inner|>{{ m.reasoning_content }}<|outer|>", "<|inner|>", "<|outer|>"),
        ("[THINK]{{ m.reasoning_content }}[/THINK]", "[THINK]", "[/THINK]"),
        ("◁think▷{{ m.reasoning_content }}◁/think▷", "◁think▷", "◁/think▷"),
    ],
)
def test_marks_that_the_template_renders(new_tokenizer, shown, begin, end):
    source = (
        f"{{% for m in messages %}}{{% if m.reasoning_content %}}{shown}{{% endif %}}{{{{ m.content }}}}{{% endfor %}}"
    )
    template = ChatTemplate(tags(new_tokenizer, source, marks=False))
    form = template.thought_format
    assert isinstance(form, Tags)
    assert (form.begin.text, form.end.text) == (begin, end)


@pytest.mark.parametrize("make", [tags, channels])
def test_a_reward_model_reads_the_text_as_the_template_has_it(new_tokenizer, make):
    tokenizer = make(new_tokenizer)
    template = ChatTemplate(tokenizer, role="reward model")
    found = split(template, ANSWERED if make is tags else CHANNELLED)
    ids = ids_of(tokenizer, ANSWERED if make is tags else CHANNELLED)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    for tokens in ((), ids[found.text_from :]):
        [read] = template.answer_ids(HI, [Response(text=found.text, tokens=tokens)], "closed")
        assert read == list(ids_of(tokenizer, tokenizer.apply_chat_template(chat, tokenize=False)))
    chat[1] |= {"reasoning_content": "She greets.", "thinking": "She greets."}
    [read] = template.answer_ids(HI, [Response(text=found.text, thoughts=found.thoughts)], "closed")
    assert read == list(ids_of(tokenizer, tokenizer.apply_chat_template(chat, tokenize=False)))


def test_a_reward_model_without_a_place_for_thoughts_reads_them_as_text(tokenizers):
    template = ChatTemplate(tokenizers["qwen3"], role="reward model")
    [(before, after)] = template.answer_texts(HI, [Response(text="Hello!", thoughts="She greets.")], "closed")
    assert "<think>\nShe greets.\n</think>\n\nHello!" in before + after


def test_text_states_are_joined_as_they_were_split(new_tokenizer):
    for source in (MAY_THINK, THINKS):
        form = ChatTemplate(tags(new_tokenizer, source)).thoughts(HI)
        assert isinstance(form, Tags)
        opened = "" if form.opened else "<think>\n"
        for state in (f"{opened}She greets.", f"{opened}She greets.\n</think>\n\nHello!", ""):
            again = form.joined(form.split_text(state))
            assert again == state or (state == "" and form.opened)


def test_effort_is_a_switch(new_tokenizer):
    template = ChatTemplate(channels(new_tokenizer))
    assert "Effort: low" in template.prompt_text(Request.of("Hi", chat_template_kwargs={"reasoning_effort": "low"}))
    assert CHANNELS


BLOCKS = (
    {"type": "reasoning", "reasoning": "She greets."},
    {"type": "thinking", "thinking": "She greets.", "signature": "x"},
    {"type": "reasoning_content", "reasoning_content": {"text": "She greets."}},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "She greets."}]},
)


@pytest.mark.parametrize("block", BLOCKS)
def test_thoughts_in_the_history_go_to_the_template(block):
    turn = Message(role="assistant", content=(block, {"type": "text", "text": "Hello!"}))
    [found] = to_chat([turn])
    assert (found["content"], found["reasoning_content"]) == ("Hello!", "She greets.")


def test_what_no_template_can_show_is_left_out_with_a_note(new_tokenizer, caplog):
    opaque = ({"type": "redacted_thinking", "data": "x"}, {"type": "non_standard", "value": {"a": 1}})
    turns = (
        Message(role="user", content="Hi"),
        Message(role="assistant", content=(*opaque, {"type": "refusal", "refusal": "No."})),
        Message(role="user", content="Please"),
    )
    text = ChatTemplate(tags(new_tokenizer)).prompt_text(Request(conversation=turns))
    assert "No." in text
    assert "encrypted" in caplog.text
    assert "only their provider" in caplog.text


def test_thoughts_that_a_template_refuses_are_left_out_with_a_note(new_tokenizer, caplog):
    refusing = (
        "{% for m in messages %}{% if m.reasoning_content %}{{ raise_exception('no thoughts') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    turns = (
        Message(role="user", content="Hi"),
        Message(role="assistant", content=(BLOCKS[0], {"type": "text", "text": "Hello!"})),
        Message(role="user", content="And?"),
    )
    text = ChatTemplate(tags(new_tokenizer, refusing)).prompt_text(Request(conversation=turns))
    assert text == "HiHello!And?"
    assert "thoughts of earlier answers" in caplog.text
