"""Chat templates: rendered in one place, as transformers renders them, and never silently losing a turn."""

from __future__ import annotations

import copy
import logging
from itertools import product

import pytest
from tokenizers import processors

from darwin_align.backends.templates import ChatTemplate, to_chat
from darwin_align.backends.turns import question_of
from darwin_align.core.errors import ModelLoadError, RequestError
from darwin_align.core.log_once import log_once
from darwin_align.core.types import Message, Request, Response, ToolCall
from darwin_align.formats.thoughts import Tags

USER = Message(role="user", content="How do I brew green tea?")
ANSWER = Message(role="assistant", content="Heat the water.")
SYSTEM = Message(role="system", content="Be kind.")
CALL = Message(role="assistant", tool_calls=(ToolCall(name="heat", arguments={"degrees": 80}, id="c1"),))
RESULT = Message(role="tool", content="80 degrees", name="heat", tool_call_id="c1")
TOOL = {"type": "function", "function": {"name": "heat", "parameters": {"type": "object", "properties": {}}}}


def request_of(*conversation: Message, **settings) -> Request:
    return Request(conversation=conversation, **settings)


@pytest.fixture(autouse=True)
def _log_anew():
    log_once.cache_clear()


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("conversation", [(USER,), (USER, ANSWER, USER)])
def test_prompt_ids_are_those_of_transformers(tokenizers, name, conversation):
    tokenizer = tokenizers[name]
    chat = [{"role": m.role, "content": m.content} for m in conversation]
    expected = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ChatTemplate(tokenizer).prompt_ids(request_of(*conversation)) == expected


@pytest.mark.parametrize("bos", ["template", "tokenizer"])
def test_there_is_one_bos(tokenizers, bos):
    tokenizer = tokenizers["llama"]
    template = ChatTemplate(tokenizer, bos=bos)
    prompt = template.prompt_ids(request_of(USER))
    [answer] = template.answer_ids(request_of(USER), [Response(text="Hi")], "closed")
    [by_id] = template.answer_ids(request_of(USER), [Response(text="Hi", tokens=encode(tokenizer, "Hi"))], "closed")
    for ids in (prompt, answer, by_id):
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id


def test_bos_from_the_tokenizer_where_the_template_renders_none(tokenizers):
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer = tokenizers["llama"]
    assert ChatTemplate(tokenizer, source).prompt_ids(request_of(USER))[0] != tokenizer.bos_token_id
    assert ChatTemplate(tokenizer, source, bos="tokenizer").prompt_ids(request_of(USER))[0] == tokenizer.bos_token_id


def encode(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


# -- turns


def test_tool_turns_become_openai_dictionaries():
    assert to_chat([CALL, RESULT]) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "id": "c1", "function": {"name": "heat", "arguments": {"degrees": 80}}}
            ],
        },
        {"role": "tool", "content": "80 degrees", "name": "heat", "tool_call_id": "c1"},
    ]


def test_text_blocks_are_joined_and_reasoning_is_kept_apart():
    blocks = ({"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "A"}, {"type": "text", "text": "B"})
    message = Message(role="assistant", content=blocks)
    assert to_chat([message]) == [{"role": "assistant", "content": "AB", "reasoning_content": "Hm."}]


@pytest.mark.parametrize("block", [{"type": "image_url", "image_url": "x"}, {"type": "reasoning", "reasoning": "x"}])
def test_a_block_that_is_no_text_is_refused(block):
    with pytest.raises(RequestError, match=f"user message has a content block of type '{block['type']}'"):
        to_chat([Message(role="user", content=({"type": "text", "text": "Look"}, block))])


def test_tools_and_tool_turns_reach_the_prompt(tokenizers):
    tokenizer = tokenizers["qwen3"]
    request = request_of(SYSTEM, USER, CALL, RESULT, tools=(TOOL,))
    text = tokenizer.decode(ChatTemplate(tokenizer).prompt_ids(request))
    assert '"name": "heat"' in text
    assert '<tool_call>{"name": "heat", "arguments": {"degrees": 80}}</tool_call>' in text
    assert "80 degrees" in text
    assert "Be kind." in text


def test_tool_choice_none_hides_the_tools(tokenizers):
    template = ChatTemplate(tokenizers["qwen3"])
    assert template.prompt_ids(request_of(USER, tools=(TOOL,), tool_choice="none")) == template.prompt_ids(
        request_of(USER)
    )


def test_tools_are_refused_where_the_template_drops_them(tokenizers):
    with pytest.raises(RequestError, match="does not show tools to the model"):
        ChatTemplate(tokenizers["llama"]).prompt_ids(request_of(USER, tools=(TOOL,)))


def test_tool_turns_are_refused_where_the_template_drops_them(tokenizers):
    with pytest.raises(RequestError, match=r"tool calls and results.*does not render them"):
        ChatTemplate(tokenizers["llama"]).prompt_ids(request_of(USER, CALL, RESULT))


def test_a_refused_system_turn_is_folded_into_the_first_human_turn(tokenizers, caplog):
    template = ChatTemplate(tokenizers["gpt2"])
    folded = Message(role="user", content=f"Be kind.\n\n{USER.text}")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert template.prompt_ids(request_of(SYSTEM, USER)) == template.prompt_ids(request_of(folded))
    assert [r.message for r in caplog.records].count(caplog.records[0].message) == 1
    assert "takes no system turn" in caplog.text


def test_a_silently_dropped_system_turn_is_folded_too(tokenizers):
    source = "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}"
    ids = ChatTemplate(tokenizers["llama"], source).prompt_ids(request_of(SYSTEM, USER))
    assert "Be kind." in tokenizers["llama"].decode(ids)


def test_a_conversation_that_the_template_refuses(tokenizers):
    source = "{{ raise_exception('roles must alternate') if messages | length > 1 else messages[0].content }}"
    with pytest.raises(RequestError, match="chat template refuses this conversation: roles must alternate"):
        ChatTemplate(tokenizers["llama"], source).prompt_ids(request_of(USER, ANSWER, USER))


def test_no_template(tokenizers):
    with pytest.raises(ModelLoadError, match=r"tokenizer of the model 'x' has no chat template.*give chat_template=…"):
        ChatTemplate(tokenizers["plain"], name="the model 'x'")


def test_what_an_answer_must_look_like_is_no_part_of_its_prompt(tokenizers):
    template = ChatTemplate(tokenizers["qwen3"])
    for settings in ({"response_format": {"type": "json_object"}}, {"tool_choice": "required"}):
        assert template.prompt_ids(request_of(USER, **settings)) == template.prompt_ids(request_of(USER))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_what_ends_an_answer(tokenizers, name):
    template = ChatTemplate(tokenizers[name])
    assert tokenizers[name].eos_token_id in template.ends
    assert template.end_of_turn is None or template.end_of_turn in template.ends


@pytest.mark.parametrize("tag", ["<think>", "<think>\n", "<|thinking|>\n\n", "[THINK]"])
def test_a_prompt_that_opens_thoughts(tokenizers, tag):
    template = ChatTemplate(
        tokenizers["qwen3"], "{% for m in messages %}{{ m.content }}{% endfor %}" + f"{{{{ {tag!r} }}}}"
    )
    thoughts = template.thoughts(request_of(USER))
    assert isinstance(thoughts, Tags)
    assert thoughts.begin.text == tag.strip()
    assert thoughts.opened


# -- named templates

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL_USE = (
    "<|im_start|>system\nTools:{% for t in tools %} {{ t | tojson }}{% endfor %}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'tool' %}<result>{{ m.content }}</result>{% else %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _named(tokenizer, **sources):
    made = copy.deepcopy(tokenizer)
    made.chat_template = sources
    return made


def test_the_template_for_tools_is_taken_where_transformers_takes_it(tokenizers):
    """In the manner of Hermes: a template for tools beside the default."""
    tokenizer = _named(tokenizers["qwen3"], default=PLAIN, tool_use=TOOL_USE)
    template = ChatTemplate(tokenizer)
    assert (template.takes_tools, template.takes_tool_turns) == (True, True)
    for conversation, tools in [((USER,), None), ((USER,), [TOOL]), ((SYSTEM, USER, CALL, RESULT), [TOOL])]:
        request = request_of(*conversation, tools=tuple(tools or ()))
        expected = tokenizer.apply_chat_template(
            to_chat(conversation), tools=tools, add_generation_prompt=True, return_dict=False
        )
        assert template.prompt_ids(request) == expected
    syntax = template.tool_syntax
    assert syntax.texts.first == '<tool_call>{"name": "'
    assert syntax.parse('<tool_call>{"name": "heat", "arguments": {}}</tool_call>', [TOOL]).calls[0].name == "heat"


def test_tool_turns_are_rendered_when_no_tool_is_shown_any_more(tokenizers):
    template = ChatTemplate(_named(tokenizers["qwen3"], default=PLAIN, tool_use=TOOL_USE))
    text = template.prompt_text(request_of(USER, CALL, RESULT, tools=(TOOL,), tool_choice="none"))
    assert "<result>80 degrees</result>" in text
    assert '<tool_call>{"name": "heat"' in text
    assert '"description"' not in text


@pytest.mark.parametrize("sources", [TOOL_USE, {"tool_use": TOOL_USE}])
def test_a_template_for_tools_alone_is_refused(tokenizers, sources):
    tokenizer = copy.deepcopy(tokenizers["qwen3"])
    tokenizer.chat_template = sources
    with pytest.raises(ModelLoadError, match=r"of the model 'x' renders conversations with tools only.*'default'"):
        ChatTemplate(tokenizer, name="the model 'x'")


# -- answers


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("text", ["Heat the water.", "把水烧开 🍵", ""])
def test_a_closed_answer_is_what_transformers_renders(tokenizers, name, text):
    tokenizer = tokenizers[name]
    chat = [{"role": "user", "content": USER.text}, {"role": "assistant", "content": text}]
    expected = tokenizer.apply_chat_template(chat, return_dict=False)
    template = ChatTemplate(tokenizer)
    assert template.answer_ids(request_of(USER), [Response(text=text)], "closed") == [expected]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_an_open_answer_ends_with_its_own_text(tokenizers, name):
    tokenizer = tokenizers[name]
    template = ChatTemplate(tokenizer)
    [closed], [opened] = (
        template.answer_ids(request_of(USER), [Response(text="Heat the water.")], turn) for turn in ("closed", "open")
    )
    assert opened == closed[: len(opened)]
    assert len(opened) < len(closed)
    assert tokenizer.decode(opened).endswith("Heat the water.")


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_exact_ids_are_kept(tokenizers, name):
    tokenizer = tokenizers[name]
    template = ChatTemplate(tokenizer)
    # One token a byte: no tokenizer would split its own text like that; and white space that templates trim.
    text = "  tea 🍵\n\n"
    tokens = tuple(t for byte in text.encode() for t in tokenizer.convert_tokens_to_ids([bytes_to_token(byte)]))
    [ids] = template.answer_ids(request_of(USER), [Response(text=text, tokens=tokens)], "open")
    assert tuple(ids[-len(tokens) :]) == tokens
    [closed] = template.answer_ids(request_of(USER), [Response(text=text, tokens=tokens)], "closed")
    assert closed[: len(ids)] == ids
    assert tokenizer.decode(closed[len(ids) :]) in ("<|eot_id|>", "<|im_end|>\n", "</s>")


def bytes_to_token(byte: int) -> str:
    from tokenizers.pre_tokenizers import ByteLevel

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    table |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in table)}
    assert set(table.values()) == set(ByteLevel.alphabet())
    return table[byte]


def test_an_eos_token_in_the_state_is_not_added_twice(tokenizers):
    tokenizer = tokenizers["qwen3"]
    template = ChatTemplate(tokenizer)
    tokens = encode(tokenizer, "Heat the water.<|im_end|>")
    [by_id] = template.answer_ids(request_of(USER), [Response(text="Heat the water.", tokens=tokens)], "closed")
    [by_text] = template.answer_ids(request_of(USER), [Response(text="Heat the water.")], "closed")
    assert by_id == by_text


def test_a_space_before_the_answer_is_decoded_once(tokenizers):
    tokenizer = tokenizers["gpt2"]
    template = ChatTemplate(tokenizer)
    tokens = encode(tokenizer, " Heat the water.")
    [by_id] = template.answer_ids(request_of(USER), [Response(text=" Heat the water.", tokens=tokens)], "open")
    assert by_id == [*template.prompt_ids(request_of(USER)), *tokens]
    [by_text] = template.answer_ids(request_of(USER), [Response(text=" Heat the water.")], "open")
    assert tokenizer.decode(by_text) == tokenizer.decode(by_id)


def test_an_empty_rendering_is_an_error(tokenizers):
    with pytest.raises(RequestError, match="rendered this conversation to nothing"):
        ChatTemplate(tokenizers["llama"], "{{ '' }}").prompt_ids(request_of(USER))


def test_half_a_character_goes_by_id(tokenizers):
    tokenizer = tokenizers["llama"]
    tokens = encode(tokenizer, "茶🍵")[:-1]
    [ids] = ChatTemplate(tokenizer).answer_ids(request_of(USER), [Response(text="茶", tokens=tokens)], "open")
    assert tuple(ids[-len(tokens) :]) == tokens


def test_ids_that_do_not_spell_the_text_are_not_used(tokenizers):
    template, foreign = ChatTemplate(tokenizers["llama"]), encode(tokenizers["gpt2"], "Heat the water.")
    by_text = template.answer_ids(request_of(USER), [Response(text="Heat the water.")], "closed")
    for tokens in (foreign, (10**6,), encode(tokenizers["llama"], "Heat the water. STOP")):
        assert (
            template.answer_ids(request_of(USER), [Response(text="Heat the water.", tokens=tokens)], "closed")
            == by_text
        )


def test_a_template_that_repeats_the_answer_falls_back_to_rendered_text(tokenizers):
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.content | length }}{{ m.content }}\n{% endfor %}"
    tokenizer = tokenizers["llama"]
    template = ChatTemplate(tokenizer, source)
    [closed] = template.answer_ids(request_of(USER), [Response(text="Hi")], "closed")
    assert tokenizer.decode(closed).endswith("assistant: Hi2Hi\n")
    [opened] = template.answer_ids(request_of(USER), [Response(text="Hi")], "open")
    assert tokenizer.decode(opened).endswith("?\nHi")


def test_a_reward_template_without_tools_is_logged_once(tokenizers, caplog):
    template = ChatTemplate(tokenizers["llama"])
    response = [Response(text="Hi")]
    with caplog.at_level(logging.WARNING):
        shown = template.answer_ids(request_of(USER, tools=(TOOL,)), response, "closed")
        template.answer_ids(request_of(USER, tools=(TOOL,)), response, "closed")
    assert shown == template.answer_ids(request_of(USER), response, "closed")
    assert caplog.text.count("takes no tools") == 1


@pytest.mark.parametrize("turn", ["closed", "open"])
@pytest.mark.parametrize("bos", ["template", "tokenizer"])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_a_reader_of_answer_texts_sees_the_ids(tokenizers, name, special, bos, turn):
    tokenizer = tokenizers[name]
    template = ChatTemplate(tokenizer, bos=bos)
    responses = [Response(text="Heat the water."), Response(text=" Wait", finished=False), Response(text="")]
    request = request_of(USER, ANSWER, USER)
    texts = template.answer_texts(request, responses, turn, special=special)
    read = [tokenizer.encode(before + after, add_special_tokens=special) for before, after in texts]
    assert read == template.answer_ids(request, responses, turn)
    for (_, after), response in zip(texts, responses, strict=True):
        assert after.startswith(response.text)
        assert turn == "closed" or after == response.text


@pytest.mark.parametrize("special", [False, True])
def test_answer_texts_leave_the_bos_to_who_adds_it(tokenizers, special):
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer = tokenizers["llama"]
    template = ChatTemplate(tokenizer, source, bos="tokenizer")
    [(before, after)] = template.answer_texts(request_of(USER), [Response(text="Hi")], "closed", special=special)
    assert before.startswith(tokenizer.bos_token) == (not special)
    read = tokenizer.encode(before + after, add_special_tokens=special)
    assert [read] == template.answer_ids(request_of(USER), [Response(text="Hi")], "closed")


@pytest.mark.parametrize("text", ["Sure", "Heat the water.", "茶 tea"])
@pytest.mark.parametrize("turn", ["closed", "open"])
def test_a_word_that_brings_its_space_has_no_other_before_it(tokenizers, text, turn):
    """Llama 2 decodes the first word of an answer without its space."""
    tokenizer = tokenizers["sentencepiece"]
    template = ChatTemplate(tokenizer)
    prompt = template.prompt_text(request_of(USER))
    whole = tokenizer.encode(f"{prompt} {text}", add_special_tokens=False)
    ids = whole[len(template.prompt_ids(request_of(USER))) :]
    response = Response(text=template.detokenizer.text(ids), tokens=tuple(ids))
    assert response.text == text
    [by_ids], [by_text] = (
        template.answer_ids(request_of(USER), [one], turn) for one in (response, Response(text=text))
    )
    assert by_ids == by_text
    if turn == "closed":
        chat = [{"role": "user", "content": USER.text}, {"role": "assistant", "content": text}]
        assert by_ids == tokenizer.apply_chat_template(chat, return_dict=False)


def test_answer_texts_of_a_template_without_a_frame(tokenizers):
    source = "{% for m in messages %}{{ m.content | replace('Hi', 'Hello') | upper }}|{% endfor %}"
    template = ChatTemplate(tokenizers["qwen3"], source)
    [(before, after)] = template.answer_texts(request_of(USER), [Response(text="Hi")], "closed")
    assert (before, after) == ("HOW DO I BREW GREEN TEA?|HELLO|", "")


# -- turns that a template refuses

ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
SYSTEM_FIRST = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('system first') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
HEY = Message(role="user", content="Hey.")
MORE = Message(role="assistant", content="Wait.")


@pytest.mark.parametrize(
    ("source", "conversation", "rendered"),
    [
        (ALTERNATING, (HEY, HEY, USER), "<user>Hey.\n\nHey.\n\nHow do I brew green tea?"),
        (ALTERNATING, (USER, ANSWER, MORE, HEY), f"<user>{USER.text}<assistant>Heat the water.\n\nWait.<user>Hey."),
        (
            ALTERNATING,
            (USER, ANSWER, SYSTEM, HEY),
            f"<user>{USER.text}<assistant>Heat the water.<user>Be kind.\n\nHey.",
        ),
        (ALTERNATING, (SYSTEM, HEY, USER), "<user>Be kind.\n\nHey.\n\nHow do I brew green tea?"),
        (SYSTEM_FIRST, (HEY, HEY), "<user>Hey.<user>Hey."),
        (SYSTEM_FIRST, (SYSTEM, HEY, ANSWER, HEY), "<system>Be kind.<user>Hey.<assistant>Heat the water.<user>Hey."),
        (SYSTEM_FIRST, (SYSTEM, SYSTEM, HEY), "<system>Be kind.\n\nBe kind.<user>Hey."),
        (
            SYSTEM_FIRST,
            (SYSTEM, HEY, MORE, SYSTEM, HEY),
            "<system>Be kind.<user>Hey.<assistant>Wait.<user>Be kind.\n\nHey.",
        ),
        (SYSTEM_FIRST, (HEY, SYSTEM), "<user>Hey.\n\nBe kind."),
    ],
)
def test_turns_are_merged_only_where_the_template_refuses_them(tokenizers, source, conversation, rendered):
    template = ChatTemplate(tokenizers["llama"], source)
    assert template.prompt_text(request_of(*conversation)) == rendered


def test_a_late_system_turn_that_moves_is_noted(tokenizers, caplog):
    """As of Gemma 2 and Mistral: transformers refuses such a conversation."""
    template = ChatTemplate(tokenizers["llama"], ALTERNATING)
    conversation = (USER, ANSWER, SYSTEM, HEY)
    with pytest.raises(Exception, match="roles must alternate"):
        tokenizers["llama"].apply_chat_template(to_chat(conversation), chat_template=ALTERNATING)
    with caplog.at_level(logging.WARNING):
        template.prompt_ids(request_of(*conversation))
    note = "takes no system turn behind the first turns: its text goes in front of the next user turn"
    assert note in caplog.text
    assert note in "".join(template.notes(request_of(*conversation)))


def test_tool_turns_are_text_of_their_neighbours_for_a_reward_model(tokenizers, caplog):
    template = ChatTemplate(tokenizers["llama"], ALTERNATING, role="reward model")
    request = request_of(USER, Message(role="assistant", content="Sure.", tool_calls=CALL.tool_calls), RESULT, RESULT)
    expected = (
        f'<user>{USER.text}<assistant>Sure.\n\nTool call: heat({{"degrees": 80}})'
        "<user>Tool result of heat: 80 degrees\n\nTool result of heat: 80 degrees<assistant>Hot."
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert template.answer_texts(request, [Response(text="Hot.")], "closed") == [
                (expected.removesuffix("Hot."), "Hot.")
            ]
    assert [record.getMessage() for record in caplog.records] == list(template.notes(request))
    assert "the reward model's chat template takes no tool calls and results" in caplog.text
    assert template.notes(request_of(USER)) == ()


def test_messages_say_whose_template_it_is(tokenizers):
    source = "{{ raise_exception('no') }}"
    for role in ("policy", "reward model"):
        with pytest.raises(RequestError, match=f"the {role}'s chat template refuses this conversation: no"):
            ChatTemplate(tokenizers["llama"], source, role=role).prompt_ids(request_of(USER))


def test_a_pair_reads_tool_turns_too():
    text = 'How do I brew green tea?\n\nTool call: heat({"degrees": 80})\n\nTool result of heat: 80 degrees'
    assert question_of([USER, CALL, RESULT]) == text


# -- special tokens


def _processed(tokenizer, first: bool, last: bool):
    """A copy of the tokenizer whose post-processor adds BOS, EOS, both or none."""
    made = copy.deepcopy(tokenizer)
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    single = " ".join([bos] * first + ["$A"] + [eos] * last)
    known = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (bos, eos)]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=known)
    ids = made.encode("x")
    assert (ids[0] == made.bos_token_id, ids[-1] == made.eos_token_id) == (first, last)
    return made


@pytest.mark.parametrize("turn", ["closed", "open"])
@pytest.mark.parametrize("bos", ["template", "tokenizer"])
@pytest.mark.parametrize("shape", list(product(("", "{{ bos_token }}"), ("\n", "{{ eos_token }}"))))
@pytest.mark.parametrize("added", [(False, False), (True, False), (False, True), (True, True)])
def test_special_tokens_are_the_same_by_text_by_ids_and_over_the_wire(tokenizers, added, shape, bos, turn):
    written, ended = shape
    tokenizer = _processed(tokenizers["llama"], *added)
    source = written + "{% for m in messages %}{{ m.role }}:\n{{ m.content }}" + ended + "{% endfor %}"
    template = ChatTemplate(tokenizer, source, bos=bos, role="reward model")
    request, text = request_of(USER, ANSWER, USER), "Heat the water."
    [by_text] = template.answer_ids(request, [Response(text=text)], turn)
    [by_ids] = template.answer_ids(request, [Response(text=text, tokens=encode(tokenizer, text))], turn)
    assert by_ids == by_text
    chat = to_chat(request.conversation)
    whole = tokenizer.apply_chat_template(
        [*chat, {"role": "assistant", "content": text}], chat_template=source, tokenize=False
    )
    if turn == "open":
        whole = whole.removesuffix("\n").removesuffix(tokenizer.eos_token)
    # What the model cards do: a leading BOS is taken off, and the tokenizer adds its special tokens.
    card = tokenizer.encode(whole.removeprefix(tokenizer.bos_token)) if bos == "tokenizer" else None
    assert by_text == (card or tokenizer.encode(whole, add_special_tokens=False))
    [(before, after)] = template.answer_texts(request, [Response(text=text)], turn, special=False)
    assert tokenizer.encode(before + after, add_special_tokens=False) == by_text
    if bos == "tokenizer":
        [(before, after)] = template.answer_texts(request, [Response(text=text)], turn, special=True)
        assert tokenizer.encode(before + after) == by_text
