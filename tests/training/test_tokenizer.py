import pytest

from training.tokenizer import CHAT_TEMPLATE, END, SPECIAL

TOOL = {
    "type": "function",
    "function": {
        "name": "set_lamp",
        "description": "Set a lamp.",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}, "any": {"enum": [1]}}},
    },
}
CALL = {"type": "function", "id": "1", "function": {"name": "set_lamp", "arguments": {"room": "café"}}}


def _text(codec, messages, **kwargs):
    return codec.inner.apply_chat_template(messages, tokenize=False, **kwargs)


def test_all_roles_and_tools_render(codec):
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Make it "}, {"type": "text", "text": "red."}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "done"},
        {"role": "assistant", "content": "It is red."},
    ]
    assert _text(codec, messages, tools=[TOOL]) == (
        "<|tools|>set_lamp(room: string, any: any) Set a lamp.<|end|><|system|>Be kind.<|end|>"
        "<|user|>Make it red.<|end|><|assistant|>"
        '<tool_call>{"name": "set_lamp", "arguments": {"room": "café"}}</tool_call><|end|>'
        "<|tool|>done<|end|><|assistant|>It is red.<|end|>"
    )


def test_generation_prompt_and_continuation(codec):
    user = {"role": "user", "content": "Hi"}
    assert _text(codec, [user], add_generation_prompt=True).endswith("<|end|><|assistant|>")
    open_turn = _text(codec, [user, {"role": "assistant", "content": "I th"}], continue_final_message=True)
    assert open_turn == "<|user|>Hi<|end|><|assistant|>I th"
    assert codec.chat([user], prompt=True)[0] == codec.inner.convert_tokens_to_ids("<|user|>")


def test_arguments_as_json_text_are_kept_word_for_word(codec):
    call = {"function": {"name": "set_lamp", "arguments": '{"room":1}'}}
    text = _text(codec, [{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert '"arguments": {"room":1}}</tool_call>' in text


def test_unknown_roles_are_refused(codec):
    with pytest.raises(Exception, match="unknown role: judge"):
        _text(codec, [{"role": "judge", "content": "x"}])


def test_calls_parse_back(codec):
    prompt = "<|user|>Hi<|end|><|assistant|>"
    reply = '<tool_call>{"name": "a", "arguments": {"x": 1}}</tool_call><|end|>'
    found = codec.inner.parse_response(reply, prefix=prompt)
    assert found["tool_calls"] == [{"type": "function", "function": {"name": "a", "arguments": {"x": 1}}}]
    assert codec.inner.parse_response("Hello.<|end|>", prefix=prompt)["content"] == "Hello."


def test_bytes_round_trip_and_special_tokens_are_apart(codec):
    text = "你好 🌻 naïve\n  two  spaces\t1234 \x00"
    assert codec.decode(codec.encode(text)) == text
    assert codec.pad != codec.end
    assert codec.inner.bos_token is None
    assert codec.inner.eos_token == END
    assert all(len(codec.encode(mark)) == 1 for mark in (*SPECIAL, "<tool_call>", "</tool_call>"))
    assert "<tool_call>" in codec.decode(codec.encode("<tool_call>"))
    assert codec.inner.chat_template == CHAT_TEMPLATE


def test_saved_tokenizer_is_the_same(codec, tmp_path):
    codec.save(tmp_path)
    again = type(codec).load(tmp_path)
    messages = [{"role": "user", "content": "Hi"}]
    assert again.chat(messages, [TOOL], prompt=True) == codec.chat(messages, [TOOL], prompt=True)
    assert again.inner.response_template == codec.inner.response_template
