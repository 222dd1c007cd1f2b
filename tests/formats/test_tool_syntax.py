"""Tool calls: found in templates of many families, and read back from whole, cut and broken answers."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.errors import RequestError
from darwin_align.core.types import ToolCall
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.pocket import policy_path

ARGUMENTS = {"city": "北京 🍵", "days": [1, 2.5, None], "how": {"unit": '°C "exact"', "close": "}</tool_call>]"}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "array"},
                    "how": {"type": "object", "properties": {"unit": {"type": "string"}}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "stop"}},
]
HEAD = "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}<bot>{{ m.content }}"
TAIL = "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
CALLS = "{% for c in m.tool_calls or [] %}"

# What templates of these families write, shortened to one turn.
FAMILIES = {
    "hermes": HEAD
    + "{% if m.tool_calls %}<think>\n\n</think>\n\n{% endif %}"
    + CALLS
    + '{{ "\n" if not loop.first }}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    + "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}"
    + TAIL,
    "llama": HEAD
    + "{% if m.tool_calls and m.tool_calls | length != 1 %}{{ raise_exception('one at a time') }}{% endif %}"
    + CALLS
    + '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}{% endfor %}'
    + TAIL,
    "mistral": HEAD
    + "{% if m.tool_calls %}[TOOL_CALLS] [{% endif %}"
    + CALLS
    + '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    + "{{ ', ' if not loop.last else ']' }}{% endfor %}"
    + TAIL,
    "mistral11": HEAD
    + CALLS
    + "[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}"
    + TAIL,
    "mistral13": HEAD
    + CALLS
    + "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}"
    + TAIL,
    "deepseek": HEAD
    + "{% if m.tool_calls %}<｜calls▁begin｜>{% endif %}"
    + CALLS
    + "{{ '\\n' if not loop.first }}<｜call▁begin｜>function<｜sep｜>{{ c.function.name }}\n```json\n"
    + "{{ '' + c.function.arguments }}\n```<｜call▁end｜>{{ '<｜calls▁end｜>' if loop.last }}{% endfor %}"
    + TAIL,
    "cohere": HEAD
    + "{% if m.tool_calls %}<|START_ACTION|>[{% endif %}"
    + CALLS
    + '\n    {"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ c.function.name }}", "parameters": '
    + "{{ c.function.arguments | tojson }}}{{ ',' if not loop.last else '\\n]<|END_ACTION|>' }}{% endfor %}"
    + TAIL,
    "phi": HEAD
    + "{% if m.tool_calls %}<|tool_call|>[{% endif %}"
    + CALLS
    + '{"type": "function", "function": {{ c.function | tojson }}}{{ "," if not loop.last }}{% endfor %}'
    + "{% if m.tool_calls %}]<|/tool_call|>{% endif %}"
    + TAIL,
}
NAMES = sorted(set(FAMILIES) - {"phi"})
SINGLE = {"llama"}


def syntax_of(tokenizer, name: str) -> ToolSyntax:
    return ChatTemplate(tokenizer, FAMILIES[name]).tool_syntax


def written(syntax: ToolSyntax, *calls: ToolCall, spaces: bool = True) -> str:
    """Calls as the model would write them."""
    texts = syntax.texts
    separators = None if spaces else (",", ":")
    parts = [
        call.name
        + texts.middle.replace("\0", "abcDEF123")
        + json.dumps(dict(call.arguments), ensure_ascii=False, separators=separators)
        for call in calls
    ]
    return texts.first + (texts.between or "").join(parts) + texts.last


WEATHER, STOP = ToolCall(name="get_weather", arguments=ARGUMENTS), ToolCall(name="stop", arguments={})


@pytest.fixture
def qwen3(tokenizers):
    return tokenizers["qwen3"]


@pytest.fixture(params=NAMES)
def syntax(request, qwen3):
    return syntax_of(qwen3, request.param)


def test_the_texts_around_calls(qwen3):
    found = {name: syntax_of(qwen3, name).texts for name in NAMES}
    assert found["hermes"].first == '<tool_call>\n{"name": "'
    assert found["hermes"].middle == '", "arguments": '
    assert found["hermes"].last == "}\n</tool_call>"
    assert found["hermes"].between == '}\n</tool_call>\n<tool_call>\n{"name": "'
    assert (found["llama"].first, found["llama"].last, found["llama"].between) == ('{"name": "', "}", None)
    assert (found["mistral"].first, found["mistral"].last) == ('[TOOL_CALLS] [{"name": "', "}]")
    assert found["mistral11"].pieces(found["mistral11"].middle) == ["[CALL_ID]", None, "[ARGS]"]
    assert found["deepseek"].first == "<｜calls▁begin｜><｜call▁begin｜>function<｜sep｜>"
    assert found["deepseek"].last == "\n```<｜call▁end｜><｜calls▁end｜>"


def test_a_call_is_read(syntax):
    for text in (written(syntax, WEATHER), written(syntax, WEATHER, spaces=False)):
        for finished in (False, True):
            found = syntax.parse(text, TOOLS, finished=finished)
            assert (found.text, found.calls, found.invalid, found.violations) == ("", (WEATHER,), (), ("",))
            assert not found.open


@pytest.mark.parametrize("name", sorted(set(NAMES) - SINGLE))
def test_parallel_calls_are_read(qwen3, name):
    syntax = syntax_of(qwen3, name)
    found = syntax.parse(written(syntax, WEATHER, STOP, WEATHER), TOOLS)
    assert (found.text, found.calls, found.invalid, found.open) == ("", (WEATHER, STOP, WEATHER), (), False)


@pytest.mark.parametrize("name", sorted(set(NAMES) - SINGLE))
def test_words_before_and_behind_a_call_are_kept(qwen3, name):
    syntax = syntax_of(qwen3, name)
    found = syntax.parse(f"我看看 🍵\n\n{written(syntax, STOP)}\nDone.", TOOLS)
    assert (found.text, found.calls) == ("我看看 🍵\nDone.", (STOP,))


def test_a_cut_call_is_open_until_the_answer_ends(syntax):
    whole = written(syntax, STOP, *() if syntax.texts.between is None else (WEATHER,))
    for end in range(1, len(whole)):
        text = whole[:end]
        found = syntax.parse(text, TOOLS)
        if end >= len(syntax.texts.first):
            assert found.open or STOP in found.calls
        if found.open:
            assert text.endswith(found.pending)
            assert not found.text
        ended = syntax.parse(text, TOOLS, finished=True)
        assert not ended.open
        assert ended.calls == found.calls
        # Where a string holds the closing mark, the call may also be taken as closed and broken.
        assert all("ended too early" in cut.reason or "Unterminated" in cut.reason for cut in ended.invalid)
        assert ended.calls or ended.invalid or ended.text == text


def test_text_without_calls_is_not_touched(syntax):
    for text in (
        "",
        " Hello <b>there</b> \n",
        '{"a": 1}',
        "茶🍵 [1] `x`",
        '[{"name": 1}]',
        '{"name": "Anna", "age": 3}',
    ):
        for finished in (False, True):
            found = syntax.parse(text, TOOLS, finished=finished)
            assert (found.text, found.calls, found.invalid, found.open) == (text, (), (), False)
    assert syntax.parse(written(syntax, STOP), []).text == written(syntax, STOP)


def test_an_unknown_tool_is_invalid(syntax):
    text = written(syntax, ToolCall(name="launch", arguments={}))
    found = syntax.parse(text, TOOLS)
    assert (found.calls, found.text) == ((), "")
    [invalid] = found.invalid
    assert (invalid.name, invalid.reason) == (
        "launch",
        "there is no tool 'launch': the tools are get_weather, stop",
    )
    assert invalid.text in text


def test_arguments_that_break_the_schema_are_reported(syntax):
    wrong = ToolCall(name="get_weather", arguments={"city": 3})
    found = syntax.parse(written(syntax, wrong), TOOLS)
    assert found.calls == (wrong,)
    assert found.violations == ("city is integer and not string",)


@pytest.mark.parametrize(
    ("text", "reason", "name"),
    [
        ('<tool_call>{"name": "stop", "arguments": {oops}}</tool_call>', "no JSON: Expecting property name", "stop"),
        ('<tool_call>{"name": "stop", "arguments": {}} so</tool_call>', "no JSON: Extra data", "stop"),
        ('<tool_call>{"name": "stop", "arguments": {"x": NaN}}</tool_call>', "no JSON: NaN", "stop"),
        ("<tool_call></tool_call>", "no JSON", None),
        ("<tool_call>[]</tool_call>", "makes no call", None),
        ('<tool_call>"stop"</tool_call>', "no tool None", None),
        ('<tool_call>{"name": ["stop"], "arguments": {}}</tool_call>', "no tool", None),
        ('<tool_call>{"name": "stop", "arguments": [1]}</tool_call>', "no JSON object but array", "stop"),
        ('<tool_call>{"name": "stop", "arguments": "{"}</tool_call>', "arguments are no JSON", "stop"),
    ],
)
def test_broken_calls_say_what_is_wrong(qwen3, text, reason, name):
    for around in ("", "Well."):
        found = syntax_of(qwen3, "hermes").parse(around + text, TOOLS)
        assert (found.text, found.calls, found.open) == (around, (), False)
        [invalid] = found.invalid
        assert invalid.text == text
        assert reason in invalid.reason
        assert invalid.name == name


def test_small_liberties_are_read(qwen3):
    hermes, llama = syntax_of(qwen3, "hermes"), syntax_of(qwen3, "llama")
    for text in (
        '<tool_call>{"arguments": {}, "name": "stop"}</tool_call>',
        '<tool_call>\n\n{"name":"stop","parameters":{}}\n\n</tool_call>',
        '<tool_call>{"name": "stop"}</tool_call>',
        '<tool_call>{"name": "stop", "arguments": "{}"}</tool_call>',
    ):
        assert hermes.parse(text, TOOLS).calls == (STOP,)
    for text in ('<|python_tag|>{"name": "stop", "parameters": {}}', ' {"name": "stop", "arguments": {}} '):
        assert llama.parse(text, TOOLS).calls == (STOP,)
    both = '{"name": "stop", "parameters": {}}; {"name": "stop", "parameters": {}}'
    assert llama.parse(both, TOOLS).calls == (STOP, STOP)


def test_a_good_call_beside_a_broken_one(qwen3):
    syntax = syntax_of(qwen3, "hermes")
    found = syntax.parse("<tool_call>no</tool_call> 然后 " + written(syntax, WEATHER) + "<tool_call>", TOOLS)
    assert (found.text, found.calls, len(found.invalid)) == ("然后", (WEATHER,), 1)
    assert (found.open, found.pending) == (True, "<tool_call>")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (HEAD + TAIL, "not a JSON object"),
        (HEAD + "{{ m.tool_calls[0].function.name if m.tool_calls }}" + TAIL, "not a JSON object"),
        (HEAD + "{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}" + TAIL, "not found"),
        (
            HEAD + CALLS + "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}" + TAIL,
            "nothing marks the beginning",
        ),
        (
            HEAD + CALLS + "<x>{{ c.function.name }}<|im_end|>{{ c.function.arguments | tojson }}{% endfor %}" + TAIL,
            "which frames turns",
        ),
    ],
)
def test_a_form_that_is_not_recognised(qwen3, template, why):
    with pytest.raises(RequestError, match=f"not recognised .*{why}.*leave tools out"):
        _ = ChatTemplate(qwen3, template).tool_syntax


def test_phi_nests_its_calls(qwen3):
    """An object in an object is not taken for a call with a name of its own."""
    syntax = syntax_of(qwen3, "phi")
    assert syntax.texts.first == '<|tool_call|>[{"type": "function", "function": {"name": "'
    found = syntax.parse(written(syntax, WEATHER), TOOLS)
    assert found.calls == (WEATHER,)
    assert not found.text


# -- marks are whole tags, and every call is read

BLOCK = (
    HEAD
    + "{% if m.tool_calls %}<calls>\n{% endif %}"
    + CALLS
    + '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n{% endfor %}'
    + "{% if m.tool_calls %}</calls>{% endif %}"
    + TAIL
)  # as of MiniMax-M1: one object a line
COUNTED = (
    HEAD
    + "{% if m.tool_calls %}<|calls|>{% endif %}"
    + CALLS
    + "<|call|>tools.{{ c.function.name }}:{{ loop.index0 }}<|args|>{{ c.function.arguments | tojson }}<|/call|>"
    + "{% endfor %}{% if m.tool_calls %}<|/calls|>{% endif %}"
    + TAIL
)  # as of Kimi-K2
ADJACENT = (
    HEAD
    + CALLS
    + '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    + "{% endfor %}\n\n<sep>"
    + TAIL
)  # as of Reka: nothing between two calls, and text behind the last that other turns have too
HERMES_CALLS = (
    CALLS
    + '\n<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    + "{% endfor %}"
)
OPENED = HEAD + HERMES_CALLS + TAIL.replace("<bot>{% endif %}", "<bot><think>\n{% endif %}")  # as of QwQ
ENDED = OPENED.replace("<bot>{{ m.content }}", "<bot><think>\n\n</think>\n\n{{ m.content }}")  # as of Qwen3-Thinking
MARKED = {"block": BLOCK, "counted": COUNTED, "adjacent": ADJACENT, "opened": OPENED, "ended": ENDED}


def rendered(tokenizer, source: str, *calls: ToolCall, content: str = "") -> str:
    """The turn that a template makes of calls, from where the assistant's turn begins, without thoughts and its end."""
    made = [{"type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}} for c in calls]
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": content, "tool_calls": made}]
    text = tokenizer.apply_chat_template(turns, chat_template=source, tokenize=False, add_generation_prompt=False)
    return (
        text.partition("<bot>")[2]
        .rpartition("</think>\n\n")[2]
        .partition("<|im_end|>")[0]
        .partition("<sep>")[0]
        .rstrip()
    )


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("content", ["", "我看看 🍵"])
def test_calls_are_read_as_they_are_rendered(qwen3, name, content):
    syntax, plain = ChatTemplate(qwen3, MARKED[name]).tool_syntax, ToolCall(name="get_weather", arguments={"city": "x"})
    for calls in ((plain,), (STOP, plain), (plain, STOP, plain)):
        text = rendered(qwen3, MARKED[name], *calls, content=content)
        found = syntax.parse(text, TOOLS, finished=True)
        assert (found.text, found.calls, found.invalid) == (content, calls, ())
        assert all(not syntax.parse(text[:end], TOOLS).invalid for end in range(len(text)))
    assert syntax.texts.first.lstrip().startswith("<")


def test_the_marks_of_a_prompt_that_begins_thoughts(qwen3):
    for name in ("opened", "ended"):
        syntax = ChatTemplate(qwen3, MARKED[name]).tool_syntax
        assert syntax.texts.first.strip() == '<tool_call>\n{"name": "'
        assert syntax.texts.last == "}\n</tool_call>"


def test_calls_are_counted_by_the_model(qwen3):
    assert ChatTemplate(qwen3, COUNTED).tool_syntax.texts.middle == ":\1<|args|>"


def test_the_tag_of_a_python_call_is_no_text(qwen3):
    call = '{"name": "stop", "parameters": {}}'
    found = syntax_of(qwen3, "llama").parse(f"<|python_tag|>{call}; {call}", TOOLS, finished=True)
    assert (found.text, found.calls, found.invalid) == ("", (STOP, STOP), ())


@pytest.mark.parametrize(
    "thoughts", ["<think>\nI could write <tool_call> here.\n</think>\n\n", "[THINK]<tool_call>[/THINK]"]
)
def test_thoughts_that_speak_of_calls_make_none(qwen3, thoughts):
    syntax = syntax_of(qwen3, "hermes")
    found = syntax.parse(thoughts + "Tea.", TOOLS, finished=True)
    assert (found.text, found.calls, found.invalid) == (f"{thoughts}Tea.", (), ())
    assert syntax.parse(thoughts + written(syntax, STOP), TOOLS).calls == (STOP,)
    cut = syntax.parse(thoughts[:-12], TOOLS)
    assert (cut.text, cut.open) == (thoughts[:-12], False)


@pytest.mark.parametrize(
    "call",
    [
        # As of Gemma 4: a notation of its own, in which a JSON text is another thing than arguments.
        "call:{{ c.function.name }}{ {%- if c.function.arguments is mapping %}"
        "{% for k, v in c.function.arguments | items %}{{ k }}:<q>{{ v }}<q>{% endfor %}"
        "{% else %}{{ c.function.arguments }}{% endif %}}<end>",
        # As of Apertus: names as keys.
        "{{ '<|calls|>[' if loop.first else ', ' }}"
        '{"{{ c.function.name }}": {{ c.function.arguments | tojson }}}'
        "{{ ']<|/calls|>' if loop.last }}",
        # An id before the name, that no mark could hold.
        "{{ c.id }}<name>{{ c.function.name }}<args>{{ c.function.arguments | tojson }}<end>",
    ],
)
def test_calls_that_would_not_be_read_are_refused(qwen3, call):
    with pytest.raises(RequestError, match="form that is not recognised"):
        _ = ChatTemplate(qwen3, HEAD + CALLS + call + "{% endfor %}" + TAIL).tool_syntax


# -- arguments between tags

ITEMS = "{% for k, v in c.function.arguments | items %}"
SHOWN = "{{ v if v is string else v | tojson }}"
TAGGED = {
    "function": HEAD  # as of Qwen3-Coder
    + CALLS
    + "\n<tool_call>\n<function={{ c.function.name }}>\n"
    + ITEMS
    + f"<parameter={{{{ k }}}}>\n{SHOWN}\n</parameter>\n{{% endfor %}}</function>\n</tool_call>{{% endfor %}}"
    + TAIL,
    "pairs": HEAD  # as of GLM
    + CALLS
    + "\n<tool_call>{{ c.function.name }}\n"
    + ITEMS
    + f"<arg_key>{{{{ k }}}}</arg_key>\n<arg_value>{SHOWN}</arg_value>\n{{% endfor %}}</tool_call>{{% endfor %}}"
    + TAIL,
    "typed": HEAD  # as of DeepSeek-V3.2
    + "{% if m.tool_calls %}\n\n<｜calls>\n{% endif %}"
    + CALLS
    + '<｜invoke name="{{ c.function.name }}">\n'
    + ITEMS
    + """<｜parameter name="{{ k }}" string="{{ 'true' if v is string else 'false' }}">"""
    + SHOWN
    + "</｜parameter>\n{% endfor %}</｜invoke>\n{% endfor %}{% if m.tool_calls %}</｜calls>{% endif %}"
    + TAIL,
}
ASKED = {"city": 'Paris "x"\n <b> & é', "days": [1, 2.5, None], "how": {"unit": "°C"}}


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize("content", ["", "我看看 🍵"])
def test_tagged_arguments_are_read(qwen3, name, content):
    syntax, call = ChatTemplate(qwen3, TAGGED[name]).tool_syntax, ToolCall(name="get_weather", arguments=ASKED)
    assert syntax.texts is None, "they are read and not forced"
    for calls in ((call,), (STOP,), (call, STOP, call)):
        text = rendered(qwen3, TAGGED[name], *calls, content=content)
        found = syntax.parse(text, TOOLS, finished=True)
        assert (found.text, found.calls, found.invalid, found.open) == (content, calls, (), False)
        assert syntax.parse(text[:-1], TOOLS).open


def test_a_tagged_text_stays_a_text(qwen3):
    syntax = ChatTemplate(qwen3, TAGGED["function"]).tool_syntax
    form = (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n{}\n</parameter>\n<parameter=days>\n{}\n</parameter>\n"
    )
    form += "</function>\n</tool_call>"
    for days, value in (("[12]", [12]), ("None", None), ("True", True), ("soon", "soon")):
        [call] = syntax.parse(form.format("12", days), TOOLS, finished=True).calls
        assert call.arguments == {"city": "12", "days": value}


# -- tokenizers that say how their answers are read


@pytest.fixture(scope="module")
def embedded():
    return ChatTemplate(AutoTokenizer.from_pretrained(policy_path()))


def test_the_embedded_policy_round_trip(embedded):
    calls = [{"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in (WEATHER, STOP)]
    tokenizer = embedded._tokenizer
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Sure.", "tool_calls": calls}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    answer = rendered.partition("<|assistant|>")[2].removesuffix("<|end|>")
    found = embedded.tool_syntax.parse(answer, TOOLS)
    assert (found.text, found.calls, found.invalid) == ("Sure.", (WEATHER, STOP), ())


def test_a_response_template_reads_what_is_no_json(qwen3):
    """Arguments as XML, in the manner of Qwen3-Coder: they can be read, with their types, and not forced."""
    template = (
        HEAD
        + CALLS
        + "<call><function={{ c.function.name }}>{% for k, v in c.function.arguments | items %}"
        + "<p={{ k }}>{{ v }}</p>{% endfor %}</function></call>{% endfor %}"
        + TAIL
    )
    fields = {
        "content": {"close_pattern": r"(?=<call>)", "content": "text"},
        "tool_calls": {
            "open": "<call>",
            "close": "</call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<p=(?P<key>\w+)>(?P<value>.*?)</p>"},
            "transform": {"type": "function", "function": {"name": "get_weather", "arguments": "{content}"}},
        },
    }
    tokenizer = AutoTokenizer.from_pretrained(policy_path())
    tokenizer.response_template = {"defaults": {"role": "assistant"}, "fields": fields, "start_anchor": "<bot>"}
    syntax = ChatTemplate(tokenizer, template).tool_syntax
    assert syntax.texts is None
    text = "Hm.<call><function=get_weather><p=city>北京</p><p=days>[1]</p></function></call>"
    found = syntax.parse(text, TOOLS)
    assert (found.text, found.open) == ("Hm.", False)
    assert found.calls[0].arguments == {"city": "北京", "days": [1]}
    assert syntax.parse(text[:-1], TOOLS).open
