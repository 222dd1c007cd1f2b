"""Constrained decoding: answers keep their schema, on any model and by any kind of call."""

from __future__ import annotations

import copy
import json
import re
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from darwin_align import DarwinSearch, SearchConfig
from darwin_align.backends.local import LocalPolicy
from darwin_align.backends.local.sampling import Sampler, place_keys, seed_keys
from darwin_align.core.errors import ModelLoadError, RequestError
from darwin_align.core.log_once import log_once
from darwin_align.core.types import Request, Sampling
from darwin_align.formats import grammars as module
from darwin_align.operators.policy import Row
from darwin_align.pocket import policy_path

ENDS = {"eos_token": "</s>"}
HOT = Sampling(temperature=1.0, top_k=None)
SAMPLINGS = (HOT, Sampling(), Sampling(temperature=0), Sampling(temperature=1.2, top_k=3, top_p=0.9))
SCHEMAS = {
    "nested": {
        "type": "object",
        "properties": {
            "who": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 4}, "ok": {"type": "boolean"}},
                "required": ["name", "ok"],
            }
        },
        "required": ["who"],
    },
    "array": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 1, "maxItems": 3},
    "tuple": {"type": "array", "prefixItems": [{"const": 1}, {"const": "二"}], "items": False, "minItems": 2},
    "enum": {"enum": ["怎样", "🍵", 'a"b', 3, None, {"x": [1]}]},
    "bounds": {"type": "integer", "minimum": -12, "exclusiveMaximum": 7},
    "number": {"type": "number", "minimum": 0.5, "maximum": 2.5, "multipleOf": 0.25},
    "string": {"type": "string", "minLength": 2, "maxLength": 6},
    "pattern": {"type": "string", "pattern": "^[茶水]{1,3}-[0-9]{2}$"},
    "date": {"type": "string", "format": "date"},
    "any": {"anyOf": [{"type": "null"}, {"type": "boolean"}, {"type": "array", "maxItems": 1, "items": {"const": 7}}]},
    "types": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
    "refs": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "v": {"enum": [1, 2]},
                    "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]},
                },
                "required": ["v", "next"],
                "additionalProperties": False,
            },
            "leaf": {"type": "object", "properties": {"茶": {"type": "boolean"}}, "required": ["茶"]},
        },
    },
    "others": {
        "type": "object",
        "properties": {"a": {"const": 1}},
        "required": ["a"],
        "additionalProperties": {"type": "boolean"},
        "maxProperties": 3,
    },
    "optional": {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}}},
    "all": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]},
        ],
        "additionalProperties": True,
        "maxProperties": 2,
    },
}
TOOLS = tuple(
    {"type": "function", "function": {"name": name, "description": "Do it.", "parameters": parameters}}
    for name, parameters in (
        (
            "heat_kettle",
            {
                "type": "object",
                "properties": {"degrees": {"type": "integer", "minimum": 0, "maximum": 99}},
                "required": ["degrees"],
            },
        ),
        ("heat", {"type": "object", "properties": {"用": {"enum": ["火", "</tool_call>"]}}, "required": ["用"]}),
        ("stop", {}),
    )
)
FORCE_HEAT = {"type": "function", "function": {"name": "heat"}}


def formed(schema) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def holds(value, schema, root=None) -> bool:
    """JSON schema, as far as the tests use it."""
    if isinstance(schema, bool):
        return schema
    root = schema if root is None else root
    if "$ref" in schema:
        return holds(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    kinds = {
        "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
        "integer": int, "number": (int, float),
    }  # fmt: skip
    wanted = schema.get("type", list(kinds))
    wanted = [wanted] if isinstance(wanted, str) else wanted
    right = [k for k in wanted if isinstance(value, kinds[k]) and (k == "boolean" or not isinstance(value, bool))]
    checks = [bool(right) or "type" not in schema]
    checks += [any(value == one and type(value) is type(one) for one in schema["enum"])] if "enum" in schema else []
    checks += [value == schema["const"]] if "const" in schema else []
    checks += [any(holds(value, one, root) for one in schema["anyOf"])] if "anyOf" in schema else []
    checks += [holds(value, one, root) for one in schema.get("allOf", ())]
    if isinstance(value, int | float) and not isinstance(value, bool):
        checks.append(schema.get("minimum", value) <= value <= schema.get("maximum", value))
        checks.append(value < schema.get("exclusiveMaximum", value + 1))
        checks.append(value % schema.get("multipleOf", 1) == 0 if "multipleOf" in schema else True)
    if isinstance(value, str):
        checks.append(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))
        checks.append(re.search(schema.get("pattern", ""), value) is not None)
        checks.append("format" not in schema or re.fullmatch(r"\d{4}-\d\d-\d\d", value) is not None)
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        checks.append(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)))
        checks += [holds(one, inner, root) for one, inner in zip(value, first, strict=False)]
        checks += [holds(one, schema.get("items", True), root) for one in value[len(first) :]]
    if isinstance(value, dict):
        inside, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        checks.append(set(schema.get("required", ())) <= set(value))
        checks.append(len(value) <= schema.get("maxProperties", len(value)))
        checks += [holds(one, inside.get(name, others), root) for name, one in value.items()]
    return all(checks)


def begins_json(text: str) -> bool:
    """Whether something can be written behind the text so that it is JSON."""
    closers, in_string, escaped = "", False, False
    for letter in text:
        if in_string:
            in_string, escaped = letter != '"' or escaped, letter == "\\" and not escaped
        elif letter == '"':
            in_string = True
        elif letter in "{[":
            closers = {"{": "}", "[": "]"}[letter] + closers
        elif letter in "}]":
            closers = closers[1:]
    words = [word[i:] for word in ("true", "false", "null") for i in range(len(word))]
    strings = ['"', 'n"', *(f'{"0" * i}"' for i in range(1, 5))] if in_string else ["", "0", ".0", *words]
    for end in strings:
        for more in ("", ":0", '"x":0', "0"):
            try:
                json.loads(text + end + more + closers)
                return True
            except ValueError:
                continue
    return False


def row(text="How do I brew green tea?", *, max_tokens=400, seed=1, tokens=(), **fields) -> Row:
    return Row(Request.of(text, **{"sampling": HOT, **fields}), max_tokens, seed, tuple(tokens))


def in_chunks(policy, one: Row, chunk: int):
    tokens: tuple[int, ...] = ()
    while True:
        [found] = policy.generate([replace(one, tokens=tokens, max_tokens=min(chunk, one.max_tokens - len(tokens)))])
        tokens = found.tokens
        if found.finish_reason or len(tokens) >= one.max_tokens:
            return found


@pytest.fixture(scope="session")
def embedded():
    return LocalPolicy.from_pretrained(policy_path(), device="cpu", threads=1)


@pytest.fixture(params=["llama", "qwen3", "gpt2", "embedded"])
def policy(request, folders, embedded):
    if request.param == "embedded":
        return embedded
    return LocalPolicy.from_pretrained(folders[request.param], device="cpu", threads=1)


@pytest.fixture
def qwen3(folders):
    return LocalPolicy.from_pretrained(folders["qwen3"], device="cpu", threads=1)


# -- what is written keeps its schema


def test_every_kind_of_schema_is_kept(policy):
    rows = [
        row(seed=seed, sampling=sampling, response_format=formed(schema))
        for schema in SCHEMAS.values()
        for seed, sampling in enumerate(SAMPLINGS)
    ]
    schemas = [schema for schema in SCHEMAS.values() for _ in SAMPLINGS]
    finished = 0
    for one, schema, found in zip(rows, schemas, policy.generate(rows), strict=True):
        if found.finish_reason != "stop":
            # A greedy or narrow model may write one number for ever.
            assert found.new_tokens == one.max_tokens
            continue
        finished += 1
        assert holds(json.loads(found.text), schema), found.text
        assert found.tokens[-1] in policy.eos_ids
        assert not set(found.tokens[:-1]) & policy.eos_ids
    assert finished >= 0.8 * len(rows)


def test_any_object(policy):
    rows = [row(seed=seed, response_format={"type": "json_object"}, max_tokens=60) for seed in range(6)]
    for found in policy.generate(rows):
        assert found.text.startswith("{")
        if found.finish_reason == "stop":
            assert isinstance(json.loads(found.text), dict)


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 8, 13, 21])
def test_a_cut_answer_is_the_beginning_of_one(qwen3, cut):
    for name in ("nested", "enum", "refs", "string", "pattern", "array"):
        [found] = qwen3.generate([row(seed=cut, response_format=formed(SCHEMAS[name]), max_tokens=cut)])
        assert found.finish_reason == "stop" or found.new_tokens == cut
        assert begins_json(found.text), found.text


leaves = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": 0, "maximum": 30},
        {"enum": ["a", "茶", 1]},
        {"type": "string", "maxLength": 3},
    ]
)
schemas = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda one: {"type": "array", "items": one, "maxItems": 2}, inner)
        | st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner)
        | st.builds(
            lambda named, optional: {
                "type": "object",
                "properties": named,
                "required": [name for name in named if name not in optional],
            },
            st.dictionaries(st.sampled_from(["a", "b", "茶", 'q"']), inner, min_size=1, max_size=3),
            st.sets(st.sampled_from(["a", "b"])),
        )
    ),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=schemas, seed=st.integers(0, 2**40))
def test_random_schemas(embedded, schema, seed):
    one = row(seed=seed, response_format=formed(schema), max_tokens=150)
    [found] = embedded.generate([one])
    assert begins_json(found.text)
    if found.finish_reason == "stop":
        assert holds(json.loads(found.text), schema)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Pieces with "▁" for blanks, and bytes for what has no piece, in the manner of Llama 2."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "▁{", '{"', '":', "▁tea", "茶"]
    pieces += sorted(set("abcdefghijklmnopqrstuvwxyz0123456789{}[]\",:-.'"))
    core = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **ENDS)


@pytest.fixture(scope="module")
def llama2(tiny_config):
    tokenizer = sentencepiece_like()
    torch.manual_seed(0)
    # More rows in the embedding than the tokenizer has tokens, as usual.
    return LocalPolicy(LlamaForCausalLM(tiny_config(LlamaConfig, len(tokenizer) + 37)), tokenizer)


@pytest.fixture(scope="module")
def letters(tiny_config):
    """A model whose vocabulary is a few letters: whatever it writes, it spells in one way."""
    pieces = ["</s>", *'abcdefghijklmnopqrstuvwxyz{}[]",:▁']
    core = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, []))
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens([AddedToken("</s>", special=True)])
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **ENDS)
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config(LlamaConfig, len(tokenizer)))
    model.generation_config.eos_token_id = None
    return LocalPolicy(model, tokenizer)


def test_a_tokenizer_that_is_not_understood_is_refused(letters):
    tokenizer = copy.deepcopy(letters._loaded.tokenizer)
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    with pytest.raises(RequestError, match=r"cannot be enforced with this model's tokenizer: .*decoder"):
        LocalPolicy(letters._loaded.model, tokenizer).generate([row("x", response_format={"type": "json_object"})])


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_sentencepiece_tokenizer(llama2, name):
    rows = [row("tea", seed=seed, response_format=formed(SCHEMAS[name])) for seed in range(3)]
    for found in llama2.generate(rows):
        if found.finish_reason == "stop":
            assert holds(json.loads(found.text), SCHEMAS[name]), found.text


def test_without_slots(qwen3):
    """What serves models that take none writes the same."""
    rows = [row(seed=seed, response_format=formed(SCHEMAS["nested"]), max_tokens=60) for seed in range(4)]
    rows.append(row("Hi", max_tokens=60))
    lines = [qwen3._sequence(one) for one in rows]
    with torch.inference_mode():
        qwen3._padded.decode(lines)
    assert [line.continuation().tokens for line in lines] == [found.tokens for found in qwen3.generate(rows)]


# -- one answer by any kind of call


def mixed_rows() -> list[Row]:
    fields = [{"response_format": formed(SCHEMAS[name])} for name in ("nested", "refs", "string", "array", "others")]
    fields += [{"tools": TOOLS, "tool_choice": choice} for choice in ("required", "stop", FORCE_HEAT)]
    fields += [{"tools": TOOLS, "response_format": formed(SCHEMAS["enum"])}]
    return [
        row(
            "Hi" if i % 2 else "Explain the steps in order. 🍵", seed=i, max_tokens=40, sampling=SAMPLINGS[i % 4], **one
        )
        for i, one in enumerate(fields)
    ]


def test_alone_beside_others_and_in_chunks(qwen3):
    rows = mixed_rows()
    free = [row(seed=seed, sampling=SAMPLINGS[seed % 4], max_tokens=40) for seed in range(20)]
    alone = [qwen3.generate([one])[0] for one in rows]
    free_alone = qwen3.generate(free)
    order = [*rows[:4], *free, *rows[4:]]
    together = qwen3.generate(order)
    assert [c.tokens for c in together[:4] + together[24:]] == [c.tokens for c in alone]
    # Rows that nothing constrains are what they were.
    assert [c.tokens for c in together[4:24]] == [c.tokens for c in free_alone]
    for one, found, beside in zip(rows, alone, together[:4] + together[24:], strict=True):
        assert found.logprob == pytest.approx(beside.logprob, abs=1e-3)
        for chunk in (1, 7):
            assert in_chunks(qwen3, one, chunk).tokens == found.tokens


def test_free_rows_draw_bit_for_bit_the_same_beside_guided_ones(qwen3):
    """The same logits, with and without guided rows in the batch."""
    torch.manual_seed(1)
    logits, keys = torch.randn(8, 450) * 4, place_keys(seed_keys(range(8)), torch.arange(8))
    constraints = [qwen3._sequence(one).constraint for one in mixed_rows()[:4]]
    for sampling in SAMPLINGS:
        tokens, logprobs = Sampler([sampling] * 8).draw(logits, keys)
        found, found_logprobs = Sampler([sampling] * 8, constraints=[*constraints, *[None] * 4]).draw(
            logits.clone(), keys
        )
        assert found[4:].tolist() == tokens[4:].tolist()
        assert found_logprobs[4:].tolist() == logprobs[4:].tolist()


@pytest.mark.parametrize("options", [{"max_batch_rows": 3}, {"row_memory": 2 * 512 * 192 * 2}])
def test_places_and_memory_for_a_few_rows(folders, qwen3, options):
    rows = [replace(one, max_tokens=100, seed=seed) for seed in range(2) for one in mixed_rows()]
    narrow = LocalPolicy.from_pretrained(folders["qwen3"], device="cpu", threads=1, **options)
    assert [c.tokens for c in narrow.generate(rows)] == [c.tokens for c in qwen3.generate(rows)]


@pytest.mark.parametrize("lag", [1, 2])
def test_when_the_host_looks_at_tokens_late(folders, qwen3, lag):
    late = LocalPolicy.from_pretrained(folders["qwen3"], device="cpu", threads=1, row_memory=10**8 + lag)
    late.engine._scheduler.lag = lag
    rows = [*mixed_rows(), *(row(seed=seed, max_tokens=40) for seed in range(5))]
    assert [c.tokens for c in late.generate(rows)] == [c.tokens for c in qwen3.generate(rows)]


def test_a_state_taken_over_from_a_donor(qwen3):
    """A row goes on with what another wrote under another instruction, from any place."""
    form = {"response_format": formed(SCHEMAS["nested"])}
    [donor] = qwen3.generate([row("Explain the steps.", seed=3, max_tokens=60, **form)])
    for length in range(len(donor.tokens)):
        taken = row("Hi", seed=9, tokens=donor.tokens[:length], **form)
        [found] = qwen3.generate([taken])
        assert found.tokens[:length] == donor.tokens[:length]
        if found.finish_reason == "stop":
            assert holds(json.loads(found.text), SCHEMAS["nested"])


def test_a_search_under_a_constraint(embedded):
    """Replacement moves states between beams; the best answer keeps the schema, alone or beside another search."""

    def find(**fields):
        search = DarwinSearch(
            policy=embedded,
            scorer=lambda request, responses: [len(r.text) % 7 for r in responses],
            mutator=lambda request, instruction, n, seed: [f"{instruction} {'please ' * i}".strip() for i in range(n)],
            sampling=HOT,
            config=SearchConfig(mutations=3, survivors=1, replacement_period=5, max_new_tokens=90, seed=5),
        )
        return search.invoke("Warm the hall to 20 degrees.", **fields)

    first, second = (find(response_format=formed(SCHEMAS["nested"])) for _ in range(2))
    assert first.text == second.text
    assert holds(json.loads(first.text), SCHEMAS["nested"])
    called = embedded.tool_syntax.parse(find(tools=TOOLS, tool_choice="required").text, TOOLS, finished=True)
    assert len(called.calls) == 1
    assert not called.invalid


def test_logprobs_are_those_of_the_tokens_that_were_left(letters):
    """Where only one token may come, nothing is left to chance."""
    for found in letters.generate([row("x", sampling=s, response_format=formed({"const": "yz"})) for s in SAMPLINGS]):
        assert found.text == '"yz"'
        assert found.logprob == pytest.approx(0, abs=1e-6)
    [found] = letters.generate([row("x", sampling=HOT, response_format=formed({"enum": ["yz", "za"]}))])
    assert found.logprob < 0


def test_a_failing_matcher_is_built_anew(qwen3):
    """What others wrote before must not decide whether a row can go on."""
    one = row(response_format=formed(SCHEMAS["nested"]), max_tokens=60)
    [expected] = qwen3.generate([one])
    line = qwen3._sequence(one)
    constraint = line.constraint
    constraint._matcher.consume_token(min(qwen3.eos_ids))  # an error, as if a bound were reached
    assert constraint._matcher.is_error()
    words = torch.zeros(constraint.words, dtype=torch.int32)
    constraint.fill(words)
    assert not constraint.error
    assert int(words.any())
    [found] = qwen3.generate([one])
    assert found.tokens == expected.tokens


# -- tools


@pytest.mark.parametrize("name", ["qwen3", "embedded"])
def test_forced_calls_parse_back(folders, embedded, name):
    policy = embedded if name == "embedded" else LocalPolicy.from_pretrained(folders[name], device="cpu", threads=1)
    by_choice = {"heat_kettle": "heat_kettle", "heat": FORCE_HEAT, "stop": "stop"}
    for tool, choice in by_choice.items():
        rows = [row(seed=seed, tools=TOOLS, tool_choice=choice) for seed in range(4)]
        for found in policy.generate(rows):
            assert found.finish_reason == "stop"
            parsed = policy.tool_syntax.parse(found.text, TOOLS, finished=True)
            assert ([c.name for c in parsed.calls], parsed.text) == ([tool], "")
            assert (parsed.invalid, parsed.violations) == ((), ("",))


@pytest.mark.parametrize("word", ["required", "any"])
def test_required_calls_any_tool(qwen3, word):
    rows = [row(seed=seed, tools=TOOLS, tool_choice=word) for seed in range(12)]
    names = set()
    for found in qwen3.generate(rows):
        parsed = qwen3.tool_syntax.parse(found.text, TOOLS, finished=True)
        assert len(parsed.calls) == 1
        assert not parsed.invalid
        names.add(parsed.calls[0].name)
    assert len(names) > 1


def test_marks_that_are_tokens_are_decoded_as_tokens(qwen3):
    tokenizer = qwen3._loaded.tokenizer
    opened, ended = tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    for found in qwen3.generate([row(seed=seed, tools=TOOLS, tool_choice=FORCE_HEAT) for seed in range(6)]):
        assert found.tokens[0] == opened
        assert found.tokens[-2] == ended


def test_an_agent_may_call_tools_or_answer_in_its_format(embedded):
    """What LangChain's agents ask for: tools beside a response format."""
    fields = {"tools": TOOLS, "response_format": formed(SCHEMAS["enum"])}
    kinds = set()
    usual = Sampling(temperature=1.0, top_k=None)
    texts = ["How do I brew green tea?", "Heat the kettle to 80 degrees."]
    rows = [row(text, seed=i, sampling=usual, max_tokens=200, **fields) for text in texts for i in range(15)]
    for found in embedded.generate(rows):
        parsed = embedded.tool_syntax.parse(found.text, TOOLS)
        if parsed.open:
            continue
        assert not parsed.invalid
        kinds.add(bool(parsed.calls))
        assert parsed.calls or found.finish_reason is None or holds(json.loads(found.text), SCHEMAS["enum"])
    assert kinds == {True, False}


def test_free_choices_constrain_calls_and_nothing_else(embedded, qwen3):
    for choice in (None, "auto"):
        assert qwen3._sequence(row("Hi", tools=TOOLS, tool_choice=choice)).constraint is not None
        assert qwen3._sequence(row("Hi", tool_choice=choice)).constraint is None
    assert qwen3._sequence(row("Hi", tools=TOOLS, tool_choice="none")).constraint is None
    assert qwen3._sequence(row(response_format={"type": "text"})).constraint is None
    hot, kinds = Sampling(temperature=1.5, top_k=None), set()
    rows = [row("Heat the pot.", seed=seed, tools=TOOLS, sampling=hot, max_tokens=200) for seed in range(24)]
    for found in embedded.generate(rows):
        parsed = embedded.tool_syntax.parse(found.text, TOOLS)
        kinds.add(bool(parsed.calls))
        assert not parsed.invalid
        assert not any(parsed.violations)
    assert kinds == {True, False}


def test_what_cannot_be_kept_leaves_calls_free(embedded, caplog):
    log_once.cache_clear()
    odd = [{"type": "function", "function": {"name": "odd", "parameters": {"not": {"type": "string"}}}}]
    assert embedded._sequence(row("Hi", tools=odd)).constraint is None
    assert "tool calls are not kept to their schemas under tool_choice='auto'" in caplog.text
    constraint = embedded._sequence(row("Hi", tools=TOOLS)).constraint
    constraint._filled = lambda words: False
    words = torch.zeros(constraint.words, dtype=torch.int32)
    constraint.fill(words)
    assert constraint.error == ""
    assert (words == -1).all()


# -- what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response_format": {"type": "xml"}}, r"response_format=.*xml.* is not known: use"),
        ({"response_format": {"type": "json_schema", "schema": {}}}, "is not known: use"),
        (
            {"response_format": formed({"not": {"type": "string"}})},
            r'cannot be enforced: Unimplemented keys: \["not"\]. Change',
        ),
        ({"response_format": formed({"type": "array", "uniqueItems": True})}, "uniqueItems"),
        ({"response_format": formed({"type": "wrong"})}, "Invalid type: wrong"),
        ({"response_format": formed({"anyOf": 5})}, "response_format cannot be enforced"),
        ({"response_format": formed({"type": "object", "properties": "a"})}, "response_format cannot be enforced"),
        ({"response_format": formed({"$ref": "#/$defs/none"})}, "does not exist"),
        ({"response_format": formed({"type": "string", "format": "postcode"})}, "Unknown format: postcode"),
        ({"response_format": formed(False)}, "Unsatisfiable"),
        ({"tool_choice": "required"}, r"tool_choice='required' cannot be kept.*tools are none"),
        ({"tools": TOOLS, "tool_choice": "launch"}, "tools are heat_kettle, heat, stop"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "heat"}}, "cannot be kept: use 'auto'"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "cannot be kept"),
        ({"tools": TOOLS, "tool_choice": "heat", "response_format": formed({})}, "contradict each other"),
    ],
)
def test_what_cannot_be_enforced_is_refused(qwen3, fields, message):
    with pytest.raises(RequestError, match=message):
        qwen3.generate([row(**fields)])
    with pytest.raises(RequestError, match=message):
        qwen3.prompt_length(row(**fields).request)


def test_a_broken_tool_schema_is_refused_only_where_it_is_forced(qwen3):
    tool = {"type": "function", "function": {"name": "odd", "parameters": {"not": {}}}}
    assert qwen3.generate([row(tools=(tool,), max_tokens=3)])[0].new_tokens
    with pytest.raises(RequestError, match=r"tool_choice='odd' cannot be enforced: .*not"):
        qwen3.generate([row(tools=(tool,), tool_choice="odd")])


def test_a_state_that_breaks_the_format_is_refused(qwen3):
    [free] = qwen3.generate([row(max_tokens=9)])
    with pytest.raises(RequestError, match=r"a row's state of 9 tokens does not keep the request's response_format"):
        qwen3.generate([row(tokens=free.tokens, response_format={"type": "json_object"})])


def test_an_unknown_form_of_calls_cannot_be_forced(folders):
    source = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    policy = LocalPolicy.from_pretrained(folders["gpt2"], device="cpu", chat_template=source)
    with pytest.raises(RequestError, match="form that is not recognised"):
        policy.generate([row(tools=TOOLS, tool_choice="required")])
    with pytest.raises(RequestError, match="form that is not recognised"):
        _ = policy.tool_syntax


def test_a_missing_package_names_the_extra(qwen3, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ModelLoadError, match=r"pip install 'darwin-align\[constrained\]'"):
        LocalPolicy(qwen3._loaded.model, qwen3._loaded.tokenizer).generate(
            [row(response_format={"type": "json_object"})]
        )


def test_a_row_that_cannot_go_on_fails_alone(letters):
    """A vocabulary that cannot spell what the schema wants: that caller hears of it, the others go on."""
    good = letters.submit([row("tea", response_format=formed({"const": "tea"}))])
    bad = letters.submit([row("tea", response_format=formed({"enum": ["ab茶", "ab9"]}))])
    assert good.result()[0].text == '"tea"'
    with pytest.raises(RequestError, match="the answer cannot be made to keep"):
        bad.result()
    assert letters.generate([row("tea", response_format=formed({"const": "tea"}))])[0].text == '"tea"'


def test_grammars_are_compiled_once_and_forgotten_in_turn(qwen3, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 2)
    policy = LocalPolicy(qwen3._loaded.model, qwen3._loaded.tokenizer)
    constraints = policy._constraints
    requests = [row(response_format=formed({"const": i})).request for i in range(3)]
    found = [constraints.find(request) for request in requests]
    assert constraints.find(requests[2]) is found[2]
    assert constraints.find(requests[0]) is not found[0]
    assert len(constraints._compiled) == 2
